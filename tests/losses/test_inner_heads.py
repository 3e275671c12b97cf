"""Heads of inner layers: which objectives apply to them, with which weights."""

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.losses import DistillSettings, Objective, Shape, StudentOutput, Supervision
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl
from asr_kd.posteriors import DensePosteriors
from tests.helpers.passes import BLANK, LENS, REFERENCES, random_log_probs

SHAPE = Shape(BLANK, vocab_size=5, width=8, layers=2, teacher_width=6, teacher_layers=2, streaming=True)
SUPERVISION = Supervision(REFERENCES, DensePosteriors(random_log_probs(2, 3, 6, 5), LENS))
NOT_ON_INNER_HEADS = {
    "consistency": {},
    "dual_mode": {},
    "auxiliary": {},
    "representation": {"pairs": [[1, 1]]},
}


def settings_of(inner_heads: str, kd_weight: float = 0.4, **objectives: dict) -> DistillSettings:
    given = {"kd_weight": kd_weight, "inner_heads": inner_heads, "objectives": objectives}
    return parse_settings(DistillSettings, given, "recipe.yaml")


def inner_loss(settings: DistillSettings, log_probs: torch.Tensor) -> torch.Tensor:
    """Objectives that need further passes or layers would fail here: a head of an inner layer has none."""
    return Objective.from_settings(settings, SHAPE).of_inner_head(StudentOutput(log_probs, LENS), SUPERVISION, 11)


@pytest.mark.parametrize(("inner_heads", "labels", "teacher"), [("both", 1, 1), ("labels", 1, 0), ("teacher", 0, 1)])
def test_they_learn_from_what_the_recipe_says_with_the_last_layers_weights(inner_heads, labels, teacher):
    head = random_log_probs(1, 3, 6, 5)
    ctc = ctc_loss(head, LENS, REFERENCES, BLANK)
    kl = FrameKl(BLANK, "all")(StudentOutput(head, LENS), SUPERVISION)
    loss = inner_loss(settings_of(inner_heads, frame_kl={"weight": 2.0, "selection": "all"}), head)
    torch.testing.assert_close(loss, (labels * 0.6 * ctc + teacher * 0.4 * 2.0 * kl) / 11)


@pytest.mark.parametrize("name", NOT_ON_INNER_HEADS)
def test_objectives_on_passes_and_layers_mean_nothing_there(name):
    head = random_log_probs(1, 3, 6, 5)
    both = {"frame_kl": {"selection": "all"}, name: NOT_ON_INNER_HEADS[name]}
    assert Objective.from_settings(settings_of("both", **both), SHAPE).inner == ["ctc", "frame_kl"]
    without = inner_loss(settings_of("both", frame_kl={"selection": "all"}), head)
    torch.testing.assert_close(inner_loss(settings_of("both", **both), head), without)
    alone = settings_of("teacher", **{name: NOT_ON_INNER_HEADS[name]})
    assert not alone.trains_inner_heads
    assert float(inner_loss(alone, head)) == 0.0


def test_what_teaches_them_is_known_without_a_model():
    assert settings_of("both", consistency={}).trains_inner_heads
    assert settings_of("teacher", frame_kl={}).trains_inner_heads
    assert settings_of("teacher", kd_weight=1.0, frame_kl={}).trains_inner_heads
    assert not settings_of("labels", kd_weight=1.0, frame_kl={}).trains_inner_heads
    assert not settings_of("both", kd_weight=1.0, consistency={}).trains_inner_heads
    assert not settings_of("teacher", kd_weight=0.0, frame_kl={}).trains_inner_heads
