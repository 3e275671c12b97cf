"""Dual mode: known answers, who learns from whom, delays, padding, halves, extremes."""

import math

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, Shape, Supervision
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl
from asr_kd.losses.self_distillation import DualMode, DualModeSettings
from asr_kd.posteriors.measures import dense_kl
from tests.helpers.passes import BLANK, LENS, REFERENCES, heard, padded, random_log_probs, references_of, rows

SUPERVISION = Supervision(REFERENCES)
STREAMING = Shape(BLANK, streaming=True)


def term_of(**settings) -> DualMode:
    return DualModeSettings(**{"selection": "all", **settings}).build(STREAMING)


def passes() -> tuple[torch.Tensor, torch.Tensor]:
    return random_log_probs(0, 3, 6, 5), random_log_probs(1, 3, 6, 5)


def summed(divergence: torch.Tensor, lens: torch.Tensor) -> torch.Tensor:
    return torch.stack([row[:length].sum() for row, length in zip(divergence, lens.tolist(), strict=True)]).sum()


def test_is_the_kl_to_the_full_context_pass_and_its_ctc():
    chunked, full = passes()
    loss = term_of(ctc_weight=0.7, kl_weight=0.3)(heard(chunked, full_context=full), SUPERVISION)
    expected = 0.3 * summed(dense_kl(full, chunked), LENS) + 0.7 * ctc_loss(full, LENS, REFERENCES, BLANK)
    torch.testing.assert_close(loss, expected)


def test_equal_passes_cost_the_full_contexts_ctc_alone():
    chunked, _ = passes()
    loss = term_of()(heard(chunked, full_context=chunked.clone()), SUPERVISION)
    torch.testing.assert_close(loss, ctc_loss(chunked, LENS, REFERENCES, BLANK))


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_chunked_pass_that_says_the_same_later_costs_nothing_at_its_delay(delay):
    """`fixed` at that delay alone, `minimum` at every one that reaches it; the last frames have no answer."""
    lens, late = torch.tensor([8]), 1
    full = random_log_probs(2, 1, 8, 5)
    chunked = full.roll(late, dims=1)
    chunked[:, :late] = random_log_probs(3, 1, late, 5)
    costs = {
        mode: float(
            term_of(ctc_weight=0.0, delay=mode, delay_frames=delay)(
                heard(chunked, lens, full_context=full), Supervision()
            )
        )
        for mode in ("fixed", "minimum")
    }
    assert (abs(costs["fixed"]) < 1e-5) == (delay == late)
    assert (abs(costs["minimum"]) < 1e-5) == (delay >= late)
    assert term_of(delay_frames=delay).delay_frames == delay


def test_the_kl_teaches_the_chunked_pass_and_ctc_the_full_one():
    chunked, full = (view.clone().requires_grad_() for view in passes())
    term_of(ctc_weight=0.0)(heard(chunked, full_context=full), Supervision()).backward()
    assert full.grad is None
    assert chunked.grad[0].abs().sum(-1).all()
    assert not chunked.grad[1, 4:].any()
    chunked.grad = None
    term_of(kl_weight=0.0)(heard(chunked, full_context=full), SUPERVISION).backward()
    assert full.grad[0].abs().sum(-1).all()
    assert not chunked.grad.any()


def test_only_frames_with_tokens_and_their_neighbours_are_taught():
    full = torch.full((1, 6, 5), 0.025)
    full[0, range(6), [0, 0, 0, 3, 0, 0]] = 0.9
    chunked = random_log_probs(4, 1, 6, 5).requires_grad_()
    term = term_of(ctc_weight=0.0, selection="nonblank", dilation=1)
    term(heard(chunked, torch.tensor([6]), full_context=full.log()), Supervision()).backward()
    assert (chunked.grad[0].abs().sum(-1) > 0).tolist() == [False, False, True, True, True, False]


@pytest.mark.parametrize("settings", [{}, {"delay": "minimum", "delay_frames": 1}, {"delay_frames": 1}])
def test_padding_changes_nothing_and_halves_add_up(settings):
    chunked, full = passes()
    term, output = term_of(**settings), heard(chunked, full_context=full)
    whole = term(output, SUPERVISION)
    torch.testing.assert_close(term(padded(output, 3), SUPERVISION), whole)
    halves = [
        term(rows(output, half), Supervision(references_of(half))) for half in (slice(0, 1), slice(1, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(halves), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("delay", ["fixed", "minimum"])
def test_certain_passes_stay_finite(dtype, delay):
    """Probabilities of exactly 0 and 1 that differ, an utterance of one frame, which a delay of one leaves untaught."""
    chunked, full = (torch.full((3, 6, 5), -500.0, dtype=dtype) for _ in range(2))
    chunked[..., 0], full[..., 1] = 500.0, 500.0
    full[2] = -math.inf
    full[2, :, 0] = 0.0
    chunked, full = chunked.requires_grad_(), full.requires_grad_()
    output = heard(chunked.log_softmax(-1), full_context=full.log_softmax(-1))
    loss = term_of(ctc_weight=0.0, delay=delay, delay_frames=1)(output, SUPERVISION)
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert chunked.grad.isfinite().all()
    assert not chunked.grad[2].any()


def test_the_whole_is_the_weighted_sum():
    chunked, full = passes()
    given = {"kd_weight": 0.4, "objectives": {"dual_mode": {"weight": 2.0, "selection": "all"}}}
    settings = parse_settings(DistillSettings, given, "recipe.yaml")
    assert not settings.needs_targets
    objective = Objective.from_settings(settings, STREAMING)
    assert objective.needs_passes == ("full_context",)
    total = objective(heard(chunked, full_context=full), SUPERVISION, 11).total
    kl = summed(dense_kl(full, chunked), LENS)
    ctc = [ctc_loss(view, LENS, REFERENCES, BLANK) for view in (chunked, full)]
    torch.testing.assert_close(total, (0.6 * ctc[0] + 0.4 * 2.0 * (ctc[1] + kl)) / 11)


def test_what_it_needs_follows_from_its_weights():
    assert term_of().needs_references
    assert not term_of(ctc_weight=0.0).needs_references
    assert not term_of().on_inner_heads
    assert isinstance(term_of().kl, FrameKl)
    with pytest.raises(ValueError, match="full-context pass"):
        term_of()(heard(passes()[0]), SUPERVISION)


def test_a_student_without_chunks_is_refused():
    settings = parse_settings(DistillSettings, {"objectives": {"dual_mode": {}}}, "recipe.yaml")
    with pytest.raises(TrainingError, match="dual_mode: needs a streaming student"):
        Objective.from_settings(settings, Shape(BLANK))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kd_weight": 1.0, "objectives": {"dual_mode": {"ctc_weight": 0.0}}}, "never train blanks"),
        ({"objectives": {"dual_mode": {"ctc_weight": 0.0, "kl_weight": 0.0}}}, "both 0"),
        ({"objectives": {"dual_mode": {"delay": "soft"}}}, "'fixed' or 'minimum'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(DistillSettings, given, "recipe.yaml")
