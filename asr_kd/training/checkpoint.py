"""Checkpoints, the weights of the best epochs, and averages of weights.

Checkpoints are safetensors and JSON with hashes, written atomically and verified when read. The newest intact one is
restored; damaged ones are reported and skipped. Averages are the moving average during training, and the mean of the
best epochs after it.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from asr_kd.errors import CheckpointError
from asr_kd.files import atomic_folder, loads_json, read_json, sha256_of_file, write_json
from asr_kd.models.weights import load_weights, read_tensors, write_tensors
from asr_kd.progress import Progress

VERSION = 1
KEEP = 2
FILES = ("model.safetensors", "optimizer.safetensors", "progress.json")
DESCRIPTION = "checkpoint.json"
"""Hashes of the other files."""


@dataclass
class TrainingState:
    """Progress of a run, besides its weights."""

    key: str  # cache key of the job
    epoch: int = 1  # the epoch under way, counted from 1
    batch: int = 0  # batches of it done
    step: int = 0  # optimizer steps done
    loss_sum: float = 0.0  # of this epoch's batches whose loss is finite
    nonfinite_batches: int = 0  # of this epoch, not in the sum
    nonfinite_total: int = 0
    nonfinite_row: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)  # a row an epoch
    unreadable: dict[str, dict[str, str]] = field(default_factory=dict)  # utterance id → path and reason


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> None:
    """Write `folder/step-N` and delete all but the newest two."""
    with atomic_folder(folder / f"step-{state.step:08d}") as partial:
        write_tensors(partial / FILES[0], _contiguous(model.state_dict()))
        write_tensors(partial / FILES[1], _optimizer_tensors(model, optimizer))
        (partial / FILES[2]).write_text(json.dumps(asdict(state)), encoding="utf-8")
        hashes = {name: sha256_of_file(partial / name) for name in FILES}
        write_json(partial / DESCRIPTION, {"version": VERSION, "sha256": hashes})
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old)


def load_newest(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, key: str, progress: Progress
) -> TrainingState | None:
    """Fill model and optimizer from the newest intact checkpoint; None when there is none.

    Raises:
        CheckpointError: the checkpoints belong to a run with other settings or data, or none is intact.
    """
    found = _newest_first(folder)
    for path in found:
        try:
            _verify(path)
            state = TrainingState(**loads_json((path / FILES[2]).read_text(encoding="utf-8")))
            weights, moments = read_tensors(path / FILES[0]), read_tensors(path / FILES[1])
        except (CheckpointError, OSError, ValueError, TypeError) as error:
            progress.message(f"checkpoint skipped: {error}")
            continue
        if state.key != key:
            raise CheckpointError(
                "belongs to a run with other settings or data",
                where=path,
                remedy="Use --force to start that model again",
            )
        model.load_state_dict(weights)
        _restore_optimizer(model, optimizer, moments)
        return state
    if found:
        raise CheckpointError(
            f"none of {len(found)} checkpoints is intact", where=folder, remedy="Use --force to start that model again"
        )
    return None


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is any checkpoint, intact or not."""
    return bool(_newest_first(folder))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def _verify(path: Path) -> None:
    try:
        description = read_json(path / DESCRIPTION)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot be read ({error})", where=path / DESCRIPTION) from error
    if description.get("version") != VERSION:
        raise CheckpointError(f"version {description.get('version')!r}", expected=f"version {VERSION}", where=path)
    for name in FILES:
        if not (path / name).is_file():
            raise CheckpointError("is missing", where=path / name)
        if sha256_of_file(path / name) != description["sha256"].get(name):
            raise CheckpointError("the file is damaged: its SHA-256 differs from the list", where=path / name)


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by parameter name, independent of their order."""
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value)
    return _contiguous(tensors)


def _restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        parameter = parameters[name]
        optimizer.state[parameter][key] = value.to(parameter.device).clone()


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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

    `averaged` are the epochs whose weights are averaged, the best first.
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
    model.load_state_dict(mean_weights(read_tensors(path) for path in paths))


def mean_weights(models: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of each tensor over several models of one shape, at least one, computed in float64."""
    iterator = iter(models)
    first = next(iterator)
    sums = {name: tensor.double().cpu() for name, tensor in first.items()}
    count = 1
    for weights in iterator:
        sums = {name: total + weights[name].double().cpu() for name, total in sums.items()}
        count += 1
    return {name: (total / count).to(first[name].dtype) for name, total in sums.items()}
