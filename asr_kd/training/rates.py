"""The learning rate of each step, its share for each part of a model, and which parts are frozen."""

import math
from typing import Any

from torch import nn

from asr_kd.models.acoustic_model import AcousticModel
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.training.settings import TrainSettings

UNFROZEN = "unfrozen."
"""Parameters of an encoder teacher's layers, before the layer's number."""


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float, final_share: float) -> float:
    """Return the rate of step `step` (from 0): linear warm-up, then half a cosine (Loshchilov & Hutter 2017).

    It is peak / warmup_steps at the first step and final_share · peak at the last.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = min((step - warmup_steps) / max(total_steps - 1 - warmup_steps, 1), 1.0)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done)))


def parameter_groups(model: nn.Module, objective: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return AdamW's groups: weight decay on matrices, none on biases and norms; each part of the model has its own.

    The key "part" of a group is what `rate_share` takes; it is empty for the objective's parameters.
    """
    named = [(_part(model, name), parameter) for name, parameter in model.named_parameters()]
    groups: dict[tuple[str, bool], dict[str, Any]] = {}
    for part, parameter in [*named, *(("", parameter) for parameter in objective.parameters())]:
        decays = parameter.ndim > 1
        decay = weight_decay if decays else 0.0
        group = groups.setdefault((part, decays), {"params": [], "weight_decay": decay, "part": part})
        group["params"].append(parameter)
    return list(groups.values())


def rate_share(model: nn.Module, part: str, settings: TrainSettings) -> float:
    """Learning rate of a part as a share of `settings.learning_rate`; 0 while it is frozen."""
    if isinstance(model, EncoderCtc):
        return model.rate_share(part)
    if part not in ("layers", "adopted"):
        return 1.0
    share = 0.0 if isinstance(model, AcousticModel) and model.frozen else settings.layers_rate
    return share * settings.adopted_rate if part == "adopted" else share


def start_epoch(model: nn.Module, epoch: int, settings: TrainSettings) -> None:
    """Take the freezing schedule of a model to an epoch, counted from 1."""
    if isinstance(model, EncoderCtc):
        model.start_epoch(epoch)
    elif isinstance(model, AcousticModel):
        model.frozen = epoch <= settings.frozen_epochs or settings.layers_rate == 0.0


def _part(model: nn.Module, name: str) -> str:
    if isinstance(model, AcousticModel):
        return model.part_of(name)
    return ".".join(name.split(".")[:2]) if name.startswith(UNFROZEN) else ""
