"""The weighted sum: weights, needs, refusals of settings."""

import math

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl
from asr_kd.posteriors import DensePosteriors, SoftTargets, keep_nucleus
from asr_kd.posteriors.types import map_tensors

LENS = torch.tensor([6, 4])
REFERENCES = References(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))


@pytest.fixture
def log_probs() -> torch.Tensor:
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


@pytest.fixture
def targets() -> SoftTargets:
    probs = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
    return keep_nucleus(probs, 0.01, 3)._replace(lens=LENS)


@pytest.mark.parametrize("weight", [0.25, 0.5, 0.9])
def test_is_the_weighted_sum_divided_by_the_frames(log_probs, targets, weight):
    objective = Objective.from_settings(DistillSettings(kd_weight=weight, selection="all"), Shape(0))
    terms = objective(StudentOutput(log_probs, LENS), Supervision(REFERENCES, targets), 10)
    ctc = ctc_loss(log_probs, LENS, REFERENCES, 0) / 10
    torch.testing.assert_close(terms.parts["ctc"], ctc)
    torch.testing.assert_close(terms.total, (1 - weight) * ctc + weight * terms.parts["frame_kl"])
    assert terms.parts["frame_kl"] > 0


def test_halves_of_a_batch_add_up_to_the_batch(log_probs, targets):
    """What makes accumulation and data-parallel training equal to one large batch."""
    objective = Objective.from_settings(DistillSettings(), Shape(0))
    whole = objective(StudentOutput(log_probs, LENS), Supervision(REFERENCES, targets), 10).total
    halves = [
        objective(
            StudentOutput(log_probs[half], LENS[half]),
            Supervision(
                References(*(x[half] for x in REFERENCES)),
                map_tensors(targets, lambda part, half=half: part[half]),
            ),
            10,
        ).total
        for half in (slice(0, 1), slice(1, 2))
    ]
    torch.testing.assert_close(whole, halves[0] + halves[1])


def test_weight_zero_needs_no_targets_and_is_ctc(log_probs):
    for settings in (None, DistillSettings(kd_weight=0.0)):
        objective = Objective.from_settings(settings, Shape(0))
        assert not objective.needs_targets
        terms = objective(StudentOutput(log_probs, LENS), Supervision(REFERENCES), 10)
        torch.testing.assert_close(terms.total, ctc_loss(log_probs, LENS, REFERENCES, 0) / 10)
        assert set(terms.parts) == {"ctc"}


def test_weight_one_needs_no_transcripts(log_probs, targets):
    objective = Objective.from_settings(DistillSettings(kd_weight=1.0, dilation=1), Shape(0))
    assert not objective.needs_references
    terms = objective(StudentOutput(log_probs, LENS), Supervision(targets=targets), 10)
    assert set(terms.parts) == {"frame_kl"}
    torch.testing.assert_close(terms.total, terms.parts["frame_kl"])


def test_the_gradient_goes_through_the_total_only(log_probs, targets):
    log_probs.requires_grad_()
    terms = Objective.from_settings(DistillSettings(), Shape(0))(
        StudentOutput(log_probs, LENS), Supervision(REFERENCES, targets), 10
    )
    assert terms.total.requires_grad
    assert not any(part.requires_grad for part in terms.parts.values())


def test_what_is_missing_is_named(log_probs, targets):
    objective = Objective.from_settings(DistillSettings(), Shape(0))
    with pytest.raises(TrainingError, match="no soft targets"):
        objective(StudentOutput(log_probs, LENS), Supervision(REFERENCES), 10)
    with pytest.raises(TrainingError, match="no transcripts"):
        objective(StudentOutput(log_probs, LENS), Supervision(targets=targets), 10)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kd_weight": 1.0, "selection": "nonblank", "dilation": 0}, "never train blanks"),
        ({"temperature": 2.0}, "needs dense targets"),
        ({"kd_weight": 1.5}, "at least 0 and at most 1"),
        ({"temperature": 0.5, "targets": "dense"}, "at least 1"),
        ({"dilaton": 1}, "did you mean 'dilation'"),
        ({"selection": "blank"}, "'all' or 'nonblank'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(DistillSettings, given, "recipe.yaml")


def test_dense_targets_may_be_softened():
    assert DistillSettings(temperature=2.0, targets="dense").temperature == 2.0


def test_terms_and_weights_must_match():
    with pytest.raises(ValueError, match="same names"):
        Objective({"a": FrameKl(0, "all")}, {"b": 1.0})


def test_a_resolved_recipe_with_a_weighted_sum_is_read_again():
    settings = parse_settings(DistillSettings, {"objectives": {"frame_kl": {"delay_frames": 2}}}, "recipe.yaml")
    assert parse_settings(DistillSettings, settings.model_dump(mode="json"), "recipe.resolved.yaml") == settings
    with pytest.raises(RecipeError, match="delay_frames describes the one objective"):
        parse_settings(DistillSettings, {"delay_frames": 1, "objectives": {"frame_kl": {}}}, "recipe.yaml")


@pytest.mark.parametrize("kinds", [(), ("consistency",), ("dual_mode",), ("consistency", "dual_mode"), ("sequence",)])
def test_settings_say_how_many_passes_the_objective_makes(kinds):
    chosen = {"objectives": {kind: {} for kind in kinds or ("frame_kl",)}}
    settings = parse_settings(DistillSettings, chosen, "recipe.yaml")
    objective = Objective.from_settings(settings, Shape(0, 5, 8, layers=2, streaming=True))
    assert settings.passes == 1 + len(objective.needs_passes)


@pytest.mark.parametrize(
    "objectives",
    [
        {"frame_kl": {"selection": "all"}},
        {"delayed_kl": {"max_delay_frames": 0}},
        {"guided_ctc": {}},
        {"pooled_kl": {}},
        {"representation": {"pairs": [[1, 1]], "distance": "channels"}},
        {"representation": {"pairs": [[1, 1]], "distance": "cosine"}},
    ],
    ids=str,
)
def test_padding_of_a_running_teacher_may_hold_anything(log_probs, objectives):
    """NaN in the frames beyond an utterance's length: loss and gradient are those without."""
    settings = DistillSettings.model_validate({"kd_weight": 0.5, "targets": "dense", "objectives": objectives})
    shape = Shape(0, 4, 8, layers=1, teacher_width=3, teacher_layers=1)
    torch.manual_seed(2)
    objective = Objective.from_settings(settings, shape)
    teacher, hidden, layer = torch.randn(2, 6, 4).log_softmax(-1), torch.randn(2, 6, 8), torch.randn(2, 6, 3)
    found = []
    for padding in (0.0, math.nan):
        given = [part.clone() for part in (teacher, layer)]
        for part in given:
            part[1, 4:] = padding
        student = [part.clone().requires_grad_() for part in (log_probs, hidden)]
        supervision = Supervision(REFERENCES, DensePosteriors(given[0], LENS), teacher_layers={1: given[1]})
        total = objective(StudentOutput(student[0], LENS, {1: student[1]}), supervision, 10).total
        total.backward()
        found.append([total.detach(), *(part.grad for part in student if part.grad is not None)])
    for plain, with_nan in zip(*found, strict=True):
        assert plain.isfinite().all()
        assert with_nan.equal(plain)
