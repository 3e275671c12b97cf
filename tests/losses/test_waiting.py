"""No objective reads what is on the device: on `meta` there is nothing to be read, and asking is an error.

torch's CTC is not made for `meta`; it must be given lengths on the host, which is looked at here.
"""

import contextlib

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.losses import (
    DistillSettings,
    Hypotheses,
    Objective,
    References,
    Shape,
    StudentOutput,
    Supervision,
    auxiliary,
    representation,
)
from asr_kd.posteriors import SoftTargets

BLANK, VOCAB, WIDTH = 0, 6, 8
SHAPE = Shape(BLANK, VOCAB, WIDTH, layers=2, teacher_width=WIDTH, teacher_layers=2, streaming=True)
FORMS = [
    {"frame_kl": {"selection": "all", "delay_frames": 2}},
    *({"delayed_kl": {"mode": mode, "max_delay_frames": 2}} for mode in ("minimum", "soft_minimum", "utterance")),
    {"delayed_kl": {"mode": "learned", "max_delay_frames": 2}},
    {"pooled_kl": {}},
    {"guided_ctc": {"delay_frames": 1}},
    {"sequence": {}},
    {"representation": {"pairs": [[2, 2]]}},
    {"auxiliary": {"ctc_weight": 0.5}},
    {"consistency": {}},
    {"dual_mode": {"delay": "minimum", "delay_frames": 2}},
]


def on_device(*shape: int) -> torch.Tensor:
    return torch.zeros(*shape, device="meta")


def heard(frames: int) -> StudentOutput:
    layers = {number: on_device(2, frames, WIDTH) for number in (1, 2)}
    return StudentOutput(on_device(2, frames, VOCAB).requires_grad_(), torch.tensor([frames, frames - 2]), layers)


def taught() -> Supervision:
    tokens = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    return Supervision(
        References(tokens, torch.tensor([3, 2])),
        SoftTargets(torch.zeros(2, 8, 3, dtype=torch.int32, device="meta"), on_device(2, 8, 3), torch.tensor([8, 6])),
        Hypotheses(tokens, torch.tensor([3, 2]), torch.tensor([0, 1]), torch.tensor([1.0, 0.5])),
        {},
        {
            "pooled": on_device(2, 3, 4, 2),
            "layer-2": on_device(2, 8, WIDTH).to(torch.int8),
            "layer-2-scale": on_device(2, 1, WIDTH),
        },
    )


@pytest.fixture(autouse=True)
def ctc_without_numbers(monkeypatch):
    def loss(log_probs, targets, lens, target_lens, **_):
        assert lens.device.type == target_lens.device.type == "cpu"
        return log_probs.sum((0, 2))

    def variables(log_probs, targets, lens, target_lens, *_):
        assert isinstance(lens, list)
        assert isinstance(target_lens, list)
        frames, batch = log_probs.shape[:2]
        return on_device(batch), on_device(batch, frames, 2 * targets.shape[1] + 1)

    monkeypatch.setattr(torch.nn.functional, "ctc_loss", loss)
    monkeypatch.setattr(torch, "_ctc_loss", variables)
    for term in (auxiliary, representation):  # nor is autocast made for it
        monkeypatch.setattr(term, "autocast_like", lambda hidden: contextlib.nullcontext())


@pytest.mark.parametrize("objectives", FORMS, ids=str)
@pytest.mark.parametrize("untranscribed", [(), (1,)])
def test_nothing_is_read_from_the_device(objectives, untranscribed):
    chosen = parse_settings(DistillSettings, {"kd_weight": 0.5, "objectives": objectives}, "recipe.yaml")
    objective = Objective.from_settings(chosen, SHAPE).to("meta")
    frames = 8 + objective.delay_frames
    student = heard(frames)._replace(passes={name: heard(frames) for name in ("full_context", "second_view")})
    terms = objective(student, taught()._replace(untranscribed=untranscribed), 16)
    terms.total.backward()
    assert student.log_probs.grad is not None
    assert terms.total.is_meta


def test_lengths_on_the_device_would_be_noticed():
    chosen = parse_settings(DistillSettings, {"kd_weight": 0.5, "objectives": FORMS[0]}, "recipe.yaml")
    objective, supervision = Objective.from_settings(chosen, SHAPE), taught()
    there = supervision._replace(targets=supervision.targets._replace(lens=torch.tensor([8, 6], device="meta")))
    with pytest.raises(RuntimeError):
        objective(heard(10), there, 16)
