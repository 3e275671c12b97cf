"""The context of a run (recipe, device, processes, progress, when to stop), and paths and hashes of its parts."""

import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from asr_kd.corpora.corpus import PreparedCorpus, manifests_folder, read_prepared
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.synthetic import settings_key
from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import AsrKdError, CheckpointError, RecipeError
from asr_kd.evaluation.results import provenance
from asr_kd.files import register_files, sha256_of_file, write_json, write_text
from asr_kd.models.weights import WEIGHTS
from asr_kd.progress import SILENT, Progress
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.system_settings import is_one_model
from asr_kd.targets.sharding import Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.store_index import INDEX, StoreInfo
from asr_kd.text.bpe import MODEL as BPE
from asr_kd.text.vocabulary import Vocabulary


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
    recorded: Recipe | None = None  # written beside the results, of a sweep the one without its rows; None: `recipe`

    @property
    def work_dir(self) -> Path:
        """Folder that holds everything the run writes."""
        return self.recipe.work_dir

    def stop_reason(self) -> str | None:
        """Why to stop at the next checkpoint, or None."""
        stop = self.should_stop()
        return stop.reason if stop is not None else None

    def use_threads(self) -> None:
        """Give the numerical library the recipe's number of threads, where it states one."""
        if self.recipe.threads is not None:
            torch.set_num_threads(self.recipe.threads)

    def folder(self, *parts: str) -> Path:
        """Path of a folder, or file, in the work_dir."""
        return self.work_dir.joinpath(*parts)

    def write_provenance(self) -> None:
        """Write the resolved recipe and what ran it beside the results."""
        plain = (self.recorded or self.recipe).model_dump(mode="json", exclude={"extras"})
        register_files(self.work_dir, ["recipe.resolved.yaml", "run.json"])
        write_text(self.folder("recipe.resolved.yaml"), yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        write_json(
            self.folder("run.json"),
            {
                **provenance(self.command or None),
                "seed": self.recipe.seed,
                "device": str(self.device),
                "processes": self.ranks.count,
            },
        )

    def teacher_folder(self, name: str) -> Path:
        """Folder of a teacher's training."""
        return self.folder("teachers", name)

    def student_folder(self, name: str) -> Path:
        """Folder of a student's training."""
        return self.folder("students", name)

    def targets_folder(self, teacher: str) -> Path:
        """Folder of a teacher's soft targets, or of the note with their URL."""
        return self.folder("targets", teacher)

    def hypotheses_folder(self, teacher: str) -> Path:
        """Folder of a teacher's n-best, or of the note with its URL."""
        return self.folder("hypotheses", teacher)

    def named_hypotheses(self, name: str) -> Path | str:
        """Place of a student's `hypotheses`: the recipe's own of that name, or the folder or URL itself."""
        return self.stored_at(self.hypotheses_folder(name)) if name in self.recipe.hypotheses else name

    def stored_at(self, folder: Path) -> Path | str:
        """The folder itself, or its counterpart below the recipe's `store_url`."""
        url = self.recipe.store_url
        return folder if url is None else f"{url.rstrip('/')}/{folder.relative_to(self.work_dir).as_posix()}"

    def model_folders(self) -> dict[str, Path]:
        """The model of every teacher that the recipe trains as one, then of every student."""
        recipe = self.recipe
        trained = [name for name, settings in recipe.teachers.items() if is_one_model(settings)]
        return {name: self.teacher_folder(name) / "model" for name in trained} | {
            name: self.student_folder(name) / "model" for name in recipe.students
        }

    def exported(self) -> list[str]:
        """Names of the models that are exported: those the recipe names, or every streaming student."""
        recipe = self.recipe
        return list(recipe.export.models) or [n for n, s in recipe.students.items() if s.model.streaming is not None]

    def read_corpus(self) -> tuple[PreparedCorpus, Vocabulary]:
        """Read the corpus and vocabulary that the prepare stage wrote; a CorpusError where it has not run."""
        corpus = read_prepared(self.work_dir)
        return corpus, Vocabulary.load(manifests_folder(self.work_dir) / VOCABULARY)

    def corpus_hashes(self, *names: str, spelling: bool = True) -> list[str]:
        """Hashes of the vocabulary and of manifests, all when none is named; the audio's settings, if synthetic.

        Without `spelling` the vocabulary is left out: for results that do not depend on the vocabulary.

        Raises:
            AsrKdError: prepare has not run.
        """
        folder = manifests_folder(self.work_dir)
        paths = [folder / f"{name}.jsonl" for name in names] or sorted(folder.glob("*.jsonl"))
        missing = [path for path in (*paths, folder / VOCABULARY) if not path.is_file()]
        if missing or not paths:
            raise AsrKdError(
                "the corpus is not prepared", where=folder, remedy="Run the prepare stage first (asr-kd prepare)"
            )
        subwords = folder / BPE  # how text is cut is part of the vocabulary
        files = [*paths, folder / VOCABULARY, *([subwords] if subwords.is_file() else [])] if spelling else paths
        hashes = [sha256_of_file(path) for path in files]
        # The same sentences may be spoken in other noise: nothing in a manifest would differ.
        corpus = self.recipe.corpus
        return [*hashes, settings_key(corpus)] if isinstance(corpus, SyntheticSettings) else hashes


def choose_device(device_name: str, ranks: Ranks = ALONE) -> torch.device:
    """Return the device of this process; `auto` takes a GPU when there is one, one for each local process.

    Raises:
        RecipeError: a GPU that does not exist, or one GPU for several processes.
    """
    gpus = torch.cuda.device_count()
    device = torch.device("cuda" if gpus else "cpu") if device_name == "auto" else torch.device(device_name)
    if device.type == "cuda" and ranks.count > 1:
        if device.index is not None:
            raise RecipeError(
                f"{device_name} for {ranks.count} processes",
                where="device",
                expected="auto, cuda (each its own) or cpu",
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


VOCABULARY = "tokens.txt"
MODEL_STAGES = ("teacher", "student")
"""Stages that write models."""
STAGE_COMMANDS = {"teacher": "train", "student": "distill"}
"""The verbs that run them alone."""


def model_sha256(folder: Path) -> str:
    """The identity of a trained model, the hash of its weights; a CheckpointError without them."""
    return sha256_of_file(existing(folder / WEIGHTS, *MODEL_STAGES))


def store_sha256(store: Path | str, index: str = INDEX) -> str:
    """The identity of stored targets or hypotheses, the hash of their index; a CheckpointError without it."""
    place = open_storage(store)
    found = place.sha256(index)
    if found is None:
        raise CheckpointError(
            f"has no {index}", where=str(place), remedy="Run the extract stage first (asr-kd extract)"
        )
    return found


def targets_sha256(store: Path | str, arrays: Collection[str]) -> str:
    """The identity of what a student reads of stored soft targets: frames, and the named arrays.

    A store that was made again to keep more gives the same.

    Raises:
        CheckpointError: they are missing.
        TargetsError: their index is damaged.
    """
    whole = store_sha256(store)
    return StoreInfo.read(store).parts_identity(arrays) or whole


def existing(path: Path, *stages: str) -> Path:
    """The path itself; a CheckpointError that names the stages of which one writes the file where it is missing."""
    if not path.is_file():
        commands = " or ".join(f"asr-kd {STAGE_COMMANDS[stage]}" for stage in stages)
        remedy = f"Run the {' or '.join(stages)} stage first ({commands})"
        raise CheckpointError("is missing", where=path, remedy=remedy)
    return path
