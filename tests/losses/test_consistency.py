"""Consistency: known answers, both gradients stopped, padding, halves, extremes, how it adds up with CTC."""

import math

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError
from asr_kd.losses import DistillSettings, Objective, Shape, Supervision
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.self_distillation import Consistency
from tests.helpers.passes import BLANK, LENS, REFERENCES, heard, padded, random_log_probs, references_of, rows

SUPERVISION = Supervision(REFERENCES)


def two_views() -> tuple[torch.Tensor, torch.Tensor]:
    return random_log_probs(0, 3, 6, 5), random_log_probs(1, 3, 6, 5)


def both_kls(first: torch.Tensor, second: torch.Tensor) -> float:
    """By the definition, with loops."""
    total = 0.0
    for b, length in enumerate(LENS.tolist()):
        for t in range(length):
            for p, q in ((first[b, t], second[b, t]), (second[b, t], first[b, t])):
                total += sum(math.exp(x) * (float(x) - float(y)) for x, y in zip(p, q, strict=True))
    return total


def test_is_the_kl_in_both_directions_and_the_second_views_ctc():
    first, second = two_views()
    kl = Consistency(BLANK, ctc_weight=0.0, kl_weight=1.0)(heard(first, second_view=second), Supervision())
    assert float(kl) == pytest.approx(both_kls(first, second), rel=1e-5)
    loss = Consistency(BLANK, ctc_weight=0.7, kl_weight=0.2)(heard(first, second_view=second), SUPERVISION)
    torch.testing.assert_close(loss, 0.2 * kl + 0.7 * ctc_loss(second, LENS, REFERENCES, BLANK))


def test_views_that_agree_cost_ctc_alone():
    first, _ = two_views()
    loss = Consistency(BLANK)(heard(first, second_view=first.clone()), SUPERVISION)
    torch.testing.assert_close(loss, ctc_loss(first, LENS, REFERENCES, BLANK))


def test_at_half_the_weight_the_whole_is_the_papers_loss():
    """½·(CTC(a) + CTC(b)) + 0.2·½·(KL + KL), over the frames."""
    first, second = two_views()
    settings = parse_settings(DistillSettings, {"kd_weight": 0.5, "objectives": {"consistency": {}}}, "recipe.yaml")
    assert not settings.needs_targets
    total = Objective.from_settings(settings, Shape(BLANK))(heard(first, second_view=second), SUPERVISION, 11).total
    ctc = [ctc_loss(view, LENS, REFERENCES, BLANK) for view in (first, second)]
    torch.testing.assert_close(total, (0.5 * (ctc[0] + ctc[1]) + 0.2 * 0.5 * both_kls(first, second)) / 11)


def test_each_view_is_drawn_to_the_other_as_it_is():
    """The gradient of a view is that of the KL from the other one held still: p − q at the logits."""
    first, second = (view.clone().requires_grad_() for view in two_views())
    term = Consistency(BLANK, ctc_weight=0.0, kl_weight=1.0)
    term(heard(first.log_softmax(-1), second_view=second.log_softmax(-1)), Supervision()).backward()
    apart = (first.exp() - second.exp()).detach()
    for b, length in enumerate(LENS.tolist()):
        torch.testing.assert_close(first.grad[b, :length], apart[b, :length])
        torch.testing.assert_close(second.grad[b, :length], -apart[b, :length])
        assert not first.grad[b, length:].any()
        assert not second.grad[b, length:].any()


def test_padding_changes_nothing_and_halves_add_up():
    first, second = two_views()
    term, output = Consistency(BLANK), heard(first, second_view=second)
    whole = term(output, SUPERVISION)
    torch.testing.assert_close(term(padded(output, 3), SUPERVISION), whole)
    halves = [
        term(rows(output, half), Supervision(references_of(half))) for half in (slice(0, 1), slice(1, 2), slice(2, 3))
    ]
    torch.testing.assert_close(sum(halves), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_certain_views_stay_finite(dtype):
    """Probabilities of exactly 0 and 1, in one view or in both, on other tokens; references with and without tokens."""
    logits = [torch.full((3, 6, 5), -500.0, dtype=dtype) for _ in range(2)]
    logits[0][..., 0], logits[1][..., 1] = 500.0, 500.0
    logits[1][2] = -math.inf
    logits[1][2, :, 0] = 0.0
    logits = [view.requires_grad_() for view in logits]
    output = heard(logits[0].log_softmax(-1), second_view=logits[1].log_softmax(-1))
    loss = Consistency(BLANK, ctc_weight=0.0)(output, SUPERVISION)
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert all(view.grad.isfinite().all() for view in logits)


def test_it_works_in_bf16():
    first, second = two_views()
    exact = Consistency(BLANK)(heard(first, second_view=second), SUPERVISION)
    rounded = Consistency(BLANK)(heard(first.bfloat16(), second_view=second.bfloat16()), SUPERVISION)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.0)


def test_what_it_needs_follows_from_its_weights():
    assert Consistency(BLANK).needs_references
    assert not Consistency(BLANK, ctc_weight=0.0).needs_references
    assert not Consistency(BLANK).on_inner_heads
    assert Objective({"a": Consistency(BLANK)}, {"a": 1.0}).needs_passes == ("second_view",)
    with pytest.raises(ValueError, match="second view"):
        Consistency(BLANK)(heard(two_views()[0]), SUPERVISION)
    free = {"kd_weight": 1.0, "objectives": {"consistency": {"ctc_weight": 0.0}, "frame_kl": {}}}
    assert not parse_settings(DistillSettings, free, "recipe.yaml").needs_references


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kd_weight": 1.0, "objectives": {"consistency": {"ctc_weight": 0.0}}}, "never train blanks"),
        ({"objectives": {"consistency": {"ctc_weight": 0.0, "kl_weight": 0.0}}}, "both 0"),
        ({"objectives": {"consistency": {"kl_weight": -1.0}}}, "at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(DistillSettings, given, "recipe.yaml")
