"""Averages of weights: the moving average during training, and the mean of the best epochs after it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asr_kd.models.weights import load_weights, read_tensors


class Ema(AveragedModel):
    """Exponential moving average of a model's weights (Polyak & Juditsky 1992), always in evaluation mode.

    Its tensors, with the number of steps, are part of checkpoints. The decay of early steps is smaller, as in
    TensorFlow's ExponentialMovingAverage, so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self.decay = decay
        self.requires_grad_(False).eval()

    def update(self, model: nn.Module) -> None:
        """Update with the weights of `model`: a copy at the first step, a share of 1 − decay later."""
        steps = int(self.n_averaged)
        self.multi_avg_fn = get_ema_multi_avg_fn(min(self.decay, (1 + steps) / (10 + steps)))
        self.update_parameters(model)


def best_epochs(curve: list[dict[str, Any]], count: int) -> list[int]:
    """Return the epochs with the lowest dev WER, then dev loss; the last ones of a run without dev scores."""
    rows = [row for row in curve if "dev_wer" in row or row.get("kept")]

    def order(row: dict[str, Any]) -> tuple[float, float]:
        return (row["dev_wer"], row["dev_loss"]) if "dev_wer" in row else (0.0, -row["epoch"])

    return [row["epoch"] for row in sorted(rows, key=order)[:count]]


def still_falling(curve: list[dict[str, Any]], averaged: Sequence[int]) -> str | None:
    """Return a message when the dev WER still fell at the end, so that the average may be worse than the last epoch.

    Args:
        curve: rows of all epochs.
        averaged: the epochs whose weights are averaged, the best first.
    """
    rates = {row["epoch"]: row["dev_wer"] for row in curve if "dev_wer" in row}
    if len(averaged) < 2 or any(epoch not in rates for epoch in averaged):  # a stage without dev scores
        return None
    worst, best = max(rates[epoch] for epoch in averaged), rates[averaged[0]]
    if averaged[0] != max(rates) or worst <= 1.1 * best:
        return None
    return (
        f"the dev WER still falls at the last epoch, from {100 * worst:.1f} to {100 * best:.1f} % over the "
        f"{len(averaged)} epochs that are averaged: train longer (train.epochs), or set train.average_best to 1"
    )


def best_path(folder: Path, epoch: int) -> Path:
    """Return the path of an epoch's weights."""
    return folder / "best" / f"epoch-{epoch:05d}.safetensors"


def prune_best(folder: Path, curve: list[dict[str, Any]], earlier_rows: int, count: int) -> None:
    """Delete weights of epochs that are neither among the best now nor among those of the first `earlier_rows`."""
    keep = {epoch for rows in (curve, curve[:earlier_rows]) for epoch in best_epochs(rows, count)}
    for path in best_path(folder, 0).parent.glob("epoch-*.safetensors"):
        if int(path.stem.removeprefix("epoch-")) not in keep:
            path.unlink()


def load_average(model: nn.Module, paths: Sequence[Path]) -> None:
    """Fill `model` with the mean of several weights (checkpoint averaging, Vaswani et al. 2017)."""
    load_weights(model, paths[0])
    own = model.state_dict()
    sums = {name: torch.zeros_like(tensor, dtype=torch.float64, device="cpu") for name, tensor in own.items()}
    for path in paths:
        for name, tensor in read_tensors(path).items():
            sums[name] += tensor.double()
    model.load_state_dict({name: (total / len(paths)).to(own[name].dtype) for name, total in sums.items()})
