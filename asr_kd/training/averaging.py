"""The weights of the best epochs: which they are, where they lie, and their mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from asr_kd.models.weights import load_weights, read_tensors


def best_epochs(curve: list[dict[str, Any]], count: int) -> list[int]:
    """The epochs of lowest dev WER, then dev loss."""
    rows = [row for row in curve if "dev_wer" in row]
    return [row["epoch"] for row in sorted(rows, key=lambda row: (row["dev_wer"], row["dev_loss"]))[:count]]


def best_path(folder: Path, epoch: int) -> Path:
    """Where an epoch's weights lie while they are among the best."""
    return folder / "best" / f"epoch-{epoch:05d}.safetensors"


def prune_best(folder: Path, curve: list[dict[str, Any]], earlier_rows: int, count: int) -> None:
    """Drop the weights of epochs that are neither among the best now nor among those of the first `earlier_rows`."""
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
