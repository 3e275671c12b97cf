"""The auxiliary layer: who learns, what it sees, padding, halves, extremes, one frame, bf16."""

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, Shape, StudentOutput, Supervision
from asr_kd.losses.auxiliary import Auxiliary, AuxiliarySettings
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl
from asr_kd.posteriors import DensePosteriors
from tests.helpers.passes import BLANK, LENS, REFERENCES, padded, random_log_probs, references_of, rows

SHAPE = Shape(BLANK, vocab_size=5, width=8, layers=3)


def term_of(seed: int = 0, **settings) -> Auxiliary:
    """With weights that are not zero anywhere."""
    torch.manual_seed(seed)
    term = AuxiliarySettings(**{"selection": "all", "dropout": 0.0, **settings}).build(SHAPE)
    torch.nn.init.normal_(term.branch.distances)
    return term


def output_of(dtype: torch.dtype = torch.float32, frames: int = 6, layer: int = 3) -> StudentOutput:
    hidden = torch.randn(3, frames, 8, generator=torch.Generator().manual_seed(7)).to(dtype)
    return StudentOutput(random_log_probs(1, 3, frames, 5), LENS, {layer: hidden})


def supervision_of(chosen: slice = slice(None)) -> Supervision:
    targets = DensePosteriors(random_log_probs(2, 3, 6, 5)[chosen], LENS[chosen])
    return Supervision(references_of(chosen), targets)


def test_is_the_frame_kl_and_the_ctc_of_its_own_head():
    term, output = term_of(ctc_weight=0.7), output_of()
    said = term.branch(output.layers[3], LENS)
    torch.testing.assert_close(said.exp().sum(-1), torch.ones(3, 6))
    expected = FrameKl(BLANK, "all")(StudentOutput(said, LENS), supervision_of())
    expected = expected + 0.7 * ctc_loss(said, LENS, REFERENCES, BLANK)
    torch.testing.assert_close(term(output, supervision_of()), expected)


def test_it_sees_the_whole_utterance_and_no_padding():
    """The first frame's answer hangs on every frame of its utterance, and on nothing else."""
    term, hidden = term_of(), output_of().layers[3].clone().requires_grad_()
    term.branch(hidden, LENS)[:, 0, 1].sum().backward()
    seen = hidden.grad.abs().sum(-1) > 0
    assert seen.tolist() == [[t < length for t in range(6)] for length in LENS.tolist()]


def test_distance_matters_and_is_relative():
    """Without its biases the layer cannot tell an order; with them, moving everything by a frame changes nothing."""
    term, hidden = term_of(), output_of().layers[3][:1, :4]
    lens, turned = torch.tensor([4]), hidden[:, [0, 2, 1, 3]]
    assert not torch.allclose(term.branch(hidden, lens)[:, 0], term.branch(turned, lens)[:, 0], atol=1e-3)
    torch.nn.init.zeros_(term.branch.distances)
    torch.testing.assert_close(term.branch(hidden, lens)[:, 0], term.branch(turned, lens)[:, 0])


def test_the_gradient_reaches_the_layer_and_not_the_students_head():
    term, output = term_of(ctc_weight=0.5), output_of()
    output.log_probs.requires_grad_()
    output.layers[3].requires_grad_()
    term(output, supervision_of()).backward()
    assert output.log_probs.grad is None
    assert output.layers[3].grad[0].abs().sum(-1).all()
    assert not output.layers[3].grad[1, 4:].any()
    assert all(parameter.grad is not None for parameter in term.parameters())


def test_padding_changes_nothing_and_halves_add_up():
    term, output = term_of(ctc_weight=0.5), output_of()
    whole = term(output, supervision_of())
    torch.testing.assert_close(term(padded(output, 3), supervision_of()), whole)
    parts = [term(rows(output, half), supervision_of(half)) for half in (slice(0, 1), slice(1, 2), slice(2, 3))]
    torch.testing.assert_close(sum(parts), whole)


def test_a_delay_asks_for_the_answer_later():
    term, output = term_of(delay_frames=1), output_of(frames=7)._replace(lens=LENS + 1)
    assert term.delay_frames == 1
    said = term.branch(output.layers[3], LENS + 1)
    expected = FrameKl(BLANK, "all")(StudentOutput(said[:, 1:], LENS), supervision_of())
    torch.testing.assert_close(term(output, supervision_of()), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_teachers_and_utterances_without_frames_stay_finite(dtype):
    term, output = term_of(ctc_weight=1.0), output_of(dtype)
    certain = torch.full((3, 6, 5), -torch.inf)
    certain[..., 2] = 0.0
    lens = torch.tensor([6, 1, 0])
    output = output._replace(lens=lens, layers={3: (output.layers[3] * 100).requires_grad_()})
    references = REFERENCES._replace(lens=torch.tensor([2, 1, 0]))
    loss = term(output, Supervision(references, DensePosteriors(certain, lens)))
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert output.layers[3].grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in term.parameters())


def test_bf16_is_close_to_fp32():
    term = term_of(ctc_weight=0.5)
    exact, rounded = (term(output_of(dtype), supervision_of()) for dtype in (torch.float32, torch.bfloat16))
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.0)


def test_what_it_needs_follows_from_its_settings():
    assert term_of().needs_layers == (3,)
    assert term_of(layer=2).needs_layers == (2,)
    assert not term_of().needs_references
    assert term_of(ctc_weight=0.1).needs_references
    settings = parse_settings(DistillSettings, {"objectives": {"auxiliary": {"heads": 2}}}, "recipe.yaml")
    assert settings.needs_targets
    objective = Objective.from_settings(settings, SHAPE)
    assert objective.needs_layers == (3,)
    assert objective.inner == ["ctc"]
    with pytest.raises(ValueError, match="layer 3"):
        term_of()(StudentOutput(random_log_probs(1, 3, 6, 5), LENS), supervision_of())


@pytest.mark.parametrize(
    ("given", "message"),
    [({"layer": 4}, "layer 4 must lie from 1 to 3"), ({"heads": 3}, "heads 3 must divide the student's width 8")],
)
def test_what_the_student_cannot_give_is_refused(given, message):
    settings = DistillSettings.model_validate({"objectives": {"auxiliary": given}})
    with pytest.raises(TrainingError, match=message):
        Objective.from_settings(settings, SHAPE)


def test_alone_without_ctc_it_would_not_train_the_students_head():
    with pytest.raises(RecipeError, match="never train blanks"):
        parse_settings(DistillSettings, {"kd_weight": 1.0, "objectives": {"auxiliary": {}}}, "recipe.yaml")
