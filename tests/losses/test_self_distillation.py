"""Consistency and dual mode: known answers, gradients, delays, padding, pieces, extremes, needs, settings."""

import math

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, Shape, Supervision
from asr_kd.losses.base import Term
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl
from asr_kd.losses.self_distillation import Consistency, DualMode, DualModeSettings
from asr_kd.posteriors.measures import dense_kl
from tests.helpers.passes import BLANK, LENS, REFERENCES, padded, random_log_probs, references_of, rows, student_output

SUPERVISION = Supervision(REFERENCES)
STREAMING = Shape(BLANK, streaming=True)
VIEW, FULL = "second_view", "full_context"


def dual_mode(**settings) -> DualMode:
    return DualModeSettings(**{"selection": "all", **settings}).build(STREAMING)


TERMS = [
    (VIEW, Consistency(BLANK)),
    (FULL, dual_mode()),
    (FULL, dual_mode(delay="minimum", delay_frames=1)),
    (FULL, dual_mode(delay_frames=1)),
]
"""The further pass that a term needs, and the term."""


def two_passes() -> tuple[torch.Tensor, torch.Tensor]:
    return random_log_probs(0, 3, 6, 5), random_log_probs(1, 3, 6, 5)


def summed(divergence: torch.Tensor, lens: torch.Tensor = LENS) -> torch.Tensor:
    return torch.stack([row[:length].sum() for row, length in zip(divergence, lens.tolist(), strict=True)]).sum()


def both_kls(first: torch.Tensor, second: torch.Tensor) -> float:
    """By the definition, with loops."""
    total = 0.0
    for b, length in enumerate(LENS.tolist()):
        for t in range(length):
            for p, q in ((first[b, t], second[b, t]), (second[b, t], first[b, t])):
                total += sum(math.exp(x) * (float(x) - float(y)) for x, y in zip(p, q, strict=True))
    return total


def objective_of(given: dict[str, object], shape: Shape) -> Objective:
    settings = parse_settings(DistillSettings, given, "recipe.yaml")
    assert not settings.needs_targets
    return Objective.from_settings(settings, shape)


# -- known answers ---------------------------------------------------------------------------------------


def test_consistency_is_the_kl_in_both_directions_and_the_second_views_ctc():
    first, second = two_passes()
    output = student_output(first, second_view=second)
    kl = Consistency(BLANK, ctc_weight=0.0, kl_weight=1.0)(output, Supervision())
    assert float(kl) == pytest.approx(both_kls(first, second), rel=1e-5)
    loss = Consistency(BLANK, ctc_weight=0.7, kl_weight=0.2)(output, SUPERVISION)
    torch.testing.assert_close(loss, 0.2 * kl + 0.7 * ctc_loss(second, LENS, REFERENCES, BLANK))


def test_dual_mode_is_the_kl_to_the_full_context_pass_and_its_ctc():
    chunked, full = two_passes()
    loss = dual_mode(ctc_weight=0.7, kl_weight=0.3)(student_output(chunked, full_context=full), SUPERVISION)
    expected = 0.3 * summed(dense_kl(full, chunked)) + 0.7 * ctc_loss(full, LENS, REFERENCES, BLANK)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("further", "term"), TERMS[:2])
def test_equal_passes_cost_ctc_alone(further: str, term: Term):
    first, _ = two_passes()
    loss = term(student_output(first, **{further: first.clone()}), SUPERVISION)
    torch.testing.assert_close(loss, ctc_loss(first, LENS, REFERENCES, BLANK))


def test_consistency_at_half_the_weight_is_the_papers_loss():
    """½·(CTC(a) + CTC(b)) + 0.2·½·(KL + KL), over the frames."""
    first, second = two_passes()
    objective = objective_of({"kd_weight": 0.5, "objectives": {"consistency": {}}}, Shape(BLANK))
    total = objective(student_output(first, second_view=second), SUPERVISION, 11).total
    ctc = [ctc_loss(view, LENS, REFERENCES, BLANK) for view in (first, second)]
    torch.testing.assert_close(total, (0.5 * (ctc[0] + ctc[1]) + 0.2 * 0.5 * both_kls(first, second)) / 11)


def test_dual_mode_in_the_weighted_sum():
    chunked, full = two_passes()
    given = {"kd_weight": 0.4, "objectives": {"dual_mode": {"weight": 2.0, "selection": "all"}}}
    objective = objective_of(given, STREAMING)
    assert objective.needs_passes == (FULL,)
    total = objective(student_output(chunked, full_context=full), SUPERVISION, 11).total
    ctc = [ctc_loss(view, LENS, REFERENCES, BLANK) for view in (chunked, full)]
    torch.testing.assert_close(total, (0.6 * ctc[0] + 0.4 * 2.0 * (ctc[1] + summed(dense_kl(full, chunked)))) / 11)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_chunked_pass_that_is_one_frame_late_costs_nothing_at_that_delay(delay):
    """`fixed` at that delay alone, `minimum` at every one that reaches it; the last frames do not count."""
    lens, late = torch.tensor([8]), 1
    full = random_log_probs(2, 1, 8, 5)
    chunked = full.roll(late, dims=1)
    chunked[:, :late] = random_log_probs(3, 1, late, 5)
    output = student_output(chunked, lens, full_context=full)
    costs = {
        mode: float(dual_mode(ctc_weight=0.0, delay=mode, delay_frames=delay)(output, Supervision()))
        for mode in ("fixed", "minimum")
    }
    assert (abs(costs["fixed"]) < 1e-5) == (delay == late)
    assert (abs(costs["minimum"]) < 1e-5) == (delay >= late)
    assert dual_mode(delay_frames=delay).delay_frames == delay


# -- gradients -------------------------------------------------------------------------------------------


def test_the_gradient_of_each_view_is_that_of_the_kl_from_the_other_held_constant():
    """p − q at the logits."""
    first, second = (view.clone().requires_grad_() for view in two_passes())
    term = Consistency(BLANK, ctc_weight=0.0, kl_weight=1.0)
    term(student_output(first.log_softmax(-1), second_view=second.log_softmax(-1)), Supervision()).backward()
    apart = (first.exp() - second.exp()).detach()
    for b, length in enumerate(LENS.tolist()):
        torch.testing.assert_close(first.grad[b, :length], apart[b, :length])
        torch.testing.assert_close(second.grad[b, :length], -apart[b, :length])
        assert not first.grad[b, length:].any()
        assert not second.grad[b, length:].any()


def test_the_kl_trains_the_chunked_pass_and_ctc_the_full_one():
    chunked, full = (view.clone().requires_grad_() for view in two_passes())
    dual_mode(ctc_weight=0.0)(student_output(chunked, full_context=full), Supervision()).backward()
    assert full.grad is None
    assert chunked.grad[0].abs().sum(-1).all()
    assert not chunked.grad[1, 4:].any()
    chunked.grad = None
    dual_mode(kl_weight=0.0)(student_output(chunked, full_context=full), SUPERVISION).backward()
    assert full.grad[0].abs().sum(-1).all()
    assert not chunked.grad.any()


def test_only_frames_with_tokens_and_their_neighbours_count():
    full = torch.full((1, 6, 5), 0.025)
    full[0, range(6), [0, 0, 0, 3, 0, 0]] = 0.9
    chunked = random_log_probs(4, 1, 6, 5).requires_grad_()
    term = dual_mode(ctc_weight=0.0, selection="nonblank", dilation=1)
    term(student_output(chunked, torch.tensor([6]), full_context=full.log()), Supervision()).backward()
    assert (chunked.grad[0].abs().sum(-1) > 0).tolist() == [False, False, True, True, True, False]


# -- batches and numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("further", "term"), TERMS)
def test_padding_changes_nothing_and_pieces_add_up(further: str, term: Term):
    first, second = two_passes()
    output = student_output(first, **{further: second})
    whole = term(output, SUPERVISION)
    torch.testing.assert_close(term(padded(output, 3), SUPERVISION), whole)
    pieces = [slice(0, 1), slice(1, 2), slice(2, 3)]
    parts = [term(rows(output, piece), Supervision(references_of(piece))) for piece in pieces]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("further", "term"),
    [
        (VIEW, Consistency(BLANK, ctc_weight=0.0)),
        (FULL, dual_mode(ctc_weight=0.0, delay_frames=1)),
        (FULL, dual_mode(ctc_weight=0.0, delay="minimum", delay_frames=1)),
    ],
)
def test_certain_passes_stay_finite(dtype, further: str, term: Term):
    """Probabilities of exactly 0 and 1, in one pass or in both, on other tokens; an utterance of one frame."""
    logits = [torch.full((3, 6, 5), -500.0, dtype=dtype) for _ in range(2)]
    logits[0][..., 0], logits[1][..., 1] = 500.0, 500.0
    logits[1][2] = -math.inf
    logits[1][2, :, 0] = 0.0
    logits = [view.requires_grad_() for view in logits]
    output = student_output(logits[0].log_softmax(-1), **{further: logits[1].log_softmax(-1)})
    loss = term(output, SUPERVISION)
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert all(view.grad.isfinite().all() for view in logits if view.grad is not None)
    if further == FULL:
        assert not logits[0].grad[2].any(), "a delay of one leaves no frame of it"


@pytest.mark.parametrize(("further", "term"), TERMS)
def test_it_works_in_bf16(further: str, term: Term):
    first, second = two_passes()
    exact = term(student_output(first, **{further: second}), SUPERVISION)
    rounded = term(student_output(first.bfloat16(), **{further: second.bfloat16()}), SUPERVISION)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.0)


# -- needs and settings ----------------------------------------------------------------------------------


def test_needs_follow_from_the_weights():
    for term, free in (
        (Consistency(BLANK), Consistency(BLANK, ctc_weight=0.0)),
        (dual_mode(), dual_mode(ctc_weight=0.0)),
    ):
        assert term.needs_references
        assert not free.needs_references
        assert not term.on_inner_heads
    assert Objective({"a": Consistency(BLANK)}, {"a": 1.0}).needs_passes == (VIEW,)
    assert isinstance(dual_mode().kl, FrameKl)
    without_transcripts = {"kd_weight": 1.0, "objectives": {"consistency": {"ctc_weight": 0.0}, "frame_kl": {}}}
    assert not parse_settings(DistillSettings, without_transcripts, "recipe.yaml").needs_references


@pytest.mark.parametrize(("term", "message"), [(Consistency(BLANK), "second view"), (dual_mode(), "full-context pass")])
def test_a_missing_pass_is_an_error(term: Term, message: str):
    with pytest.raises(ValueError, match=message):
        term(student_output(two_passes()[0]), SUPERVISION)


def test_a_student_without_chunks_has_no_dual_mode():
    settings = parse_settings(DistillSettings, {"objectives": {"dual_mode": {}}}, "recipe.yaml")
    with pytest.raises(TrainingError, match="dual_mode: needs a streaming student"):
        Objective.from_settings(settings, Shape(BLANK))


@pytest.mark.parametrize("name", ["consistency", "dual_mode"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kd_weight": 1.0, "ctc_weight": 0.0}, "never train blanks"),
        ({"ctc_weight": 0.0, "kl_weight": 0.0}, "both 0"),
        ({"kl_weight": -1.0}, "at least 0"),
    ],
)
def test_settings_without_effect_are_refused(name, given, message):
    kd_weight = {"kd_weight": given["kd_weight"]} if "kd_weight" in given else {}
    term = {key: value for key, value in given.items() if key != "kd_weight"}
    with pytest.raises(RecipeError, match=message):
        parse_settings(DistillSettings, {**kd_weight, "objectives": {name: term}}, "recipe.yaml")


def test_an_unknown_delay_is_refused():
    with pytest.raises(RecipeError, match="'fixed' or 'minimum'"):
        parse_settings(DistillSettings, {"objectives": {"dual_mode": {"delay": "soft"}}}, "recipe.yaml")


def test_an_utterance_shorter_than_the_delay_has_no_kl_and_does_no_harm():
    chunked, full = two_passes()
    lens = torch.tensor([6, 4, 1])
    term = dual_mode(delay_frames=2, ctc_weight=0.0, kl_weight=1.0)
    loss = term(student_output(chunked, lens, full_context=full), Supervision())
    expected = summed(dense_kl(full[:2, :4], chunked[:2, 2:]), torch.tensor([4, 2]))
    torch.testing.assert_close(loss, expected)
