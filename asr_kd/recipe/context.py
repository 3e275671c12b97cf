"""The context of a run: recipe, device, processes, progress, and when to stop."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import RecipeError
from asr_kd.evaluation.provenance import provenance
from asr_kd.files import register_files, write_json, write_text
from asr_kd.progress import SILENT, Progress
from asr_kd.recipe.settings import Recipe
from asr_kd.targets.sharding import Share


@dataclass(frozen=True)
class Stop:
    """Why to stop, and whether within seconds: a signal comes shortly before the process is killed."""

    reason: str
    urgent: bool


@dataclass
class RunContext:
    """Context of a run, passed to all stages."""

    recipe: Recipe
    progress: Progress = SILENT
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    should_stop: Callable[[], Stop | None] = lambda: None
    command: str = ""
    ranks: Ranks = ALONE
    share: Share | None = None  # of extraction, in independent processes; None: all of it

    @property
    def work_dir(self) -> Path:
        """Folder that holds everything the run writes."""
        return self.recipe.work_dir

    def stop_reason(self) -> str | None:
        """Why to stop at the next checkpoint, or None."""
        stop = self.should_stop()
        return stop.reason if stop is not None else None

    def folder(self, *parts: str) -> Path:
        """Path of a folder in the work_dir."""
        return self.work_dir.joinpath(*parts)


def choose_device(wanted: str, ranks: Ranks = ALONE) -> torch.device:
    """Return the device of this process; `auto` takes a GPU when there is one, one for each local process.

    Raises:
        RecipeError: a GPU that does not exist, or one GPU for several processes.
    """
    gpus = torch.cuda.device_count()
    device = torch.device("cuda" if gpus else "cpu") if wanted == "auto" else torch.device(wanted)
    if device.type == "cuda" and ranks.count > 1:
        if device.index is not None:
            raise RecipeError(
                f"{wanted} for {ranks.count} processes", where="device", expected="auto, cuda (each its own) or cpu"
            )
        device = torch.device("cuda", ranks.local_rank)
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise RecipeError(
            f"there is no {device}: PyTorch finds {gpus} GPUs",
            where="device",
            expected="auto, cpu or one of them, and no more processes on a machine than it has GPUs",
        )
    return device


@contextmanager
def stop_on(max_minutes: float | None, patient: bool = False) -> Iterator[Callable[[], Stop | None]]:
    """Yield a function that returns a `Stop` when the time is up or SIGTERM came, which Slurm sends before the end.

    A second SIGTERM ends the process at once unless it is `patient`: torchrun's processes get the signal from Slurm and
    from torchrun, also while they exit, and torchrun kills those that take longer than 30 s.
    """
    deadline = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    received: list[str] = []

    def on_signal(number: int, frame: Any) -> None:
        received.append(signal.Signals(number).name)
        if not patient:
            signal.signal(number, before)  # a second signal ends the process at once

    def stop() -> Stop | None:
        if received:
            return Stop(received[0], urgent=True)
        if deadline is not None and time.monotonic() >= deadline:
            return Stop(f"--max-minutes {max_minutes:g} are over", urgent=False)
        return None

    try:
        before = signal.signal(signal.SIGTERM, on_signal)
    except ValueError:  # not the main thread: a notebook, a server; the time limit still works
        yield stop
        return
    try:
        yield stop
    finally:
        if not patient:
            signal.signal(signal.SIGTERM, before)


def write_provenance(context: RunContext) -> None:
    """Write the resolved recipe and what ran it beside the results."""
    plain = context.recipe.model_dump(mode="json", exclude={"extras"})
    register_files(context.work_dir, ["recipe.resolved.yaml", "run.json"])
    write_text(context.folder("recipe.resolved.yaml"), yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    write_json(
        context.folder("run.json"),
        {
            **provenance(context.command or None),
            "seed": context.recipe.seed,
            "device": str(context.device),
            "processes": context.ranks.count,
        },
    )
