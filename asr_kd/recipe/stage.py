"""Stages as tasks with a cache key: each runs once for its settings and inputs, is skipped after that, and resumes.

When settings change, the earlier result moves to `previous/`; when they change back, it is restored from there. With
several processes, the first one decides, moves and writes the status; the others join parallel tasks or wait. A file
lock lets one run at a time work on a task; the system releases it when the process ends."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import AsrKdError, StoppedEarly, TargetsError
from asr_kd.files import read_json, sha256_of, sha256_of_file, write_json
from asr_kd.recipe.setting_changes import first_difference, without_new_defaults
from asr_kd.targets.local_storage import LocalStorage, NoLocksError

STAGES = ("prepare", "teacher", "extract", "student", "evaluate", "export")
"""The stages of a recipe in the order they run."""

VERSION = 3
"""Raise it when a stage's output changes for the same settings: results of other versions are then not reused."""

Report = Callable[[str], None]
"""Takes messages to the user."""


@dataclass(frozen=True)
class StageTask:
    """A stage, or the part of a stage that makes one model's result."""

    stage: str
    name: str
    work_dir: Path
    folder: Path
    """Holds the results and nothing else."""
    settings: Any
    """Plain data that decides the result, beside the inputs."""
    inputs: Callable[[], Any]
    """Returns plain data that identifies the inputs; called when they exist."""
    run: Callable[[Path], None]
    results: tuple[Path, ...]
    """Files without which the task is not done."""
    keep_previous: bool = True
    """Move the folder to `previous/` when settings change; otherwise `run` writes over it."""
    parallel: bool = False
    """Call `run` in every process; otherwise in the first one only."""
    finish: Callable[[Path], str | None] | None = None
    """Called in the first process after `run` has ended in all of them; may return why the task is not done yet."""
    is_intact: Callable[[], bool] = lambda: True
    """Called when all results exist: whether the files that belong to them are complete and undamaged."""
    shared: bool = False
    """Several runs may work on it at once: they divide it among themselves."""
    owner: str | None = None
    """The teacher, student or pseudo-labels that the task belongs to: `--only OWNER` selects it too."""
    stated: Any = None
    """The part of `settings` that is not at its default; None: a setting that a release adds makes results outdated."""

    @property
    def label(self) -> str:
        """Name in messages."""
        return self.stage if self.stage == self.name else f"{self.stage} {self.name}"

    @property
    def status_path(self) -> Path:
        """JSON file with the cache key, the settings, and whether the task is done."""
        return self.work_dir / "stages" / f"{self._file_stem}.json"

    def previous_folder(self, key: str) -> Path:
        """Folder that keeps a result of another cache key."""
        return self.work_dir / "previous" / f"{self._file_stem}-{key[:8]}"

    def cache_key(self) -> str:
        """Hash of the settings and inputs."""
        return sha256_of([VERSION, self.stage, self.settings_in_key(), self.inputs()])

    def settings_in_key(self) -> Any:
        """The settings; those at their default that the present result does not have are left out."""
        earlier = _read_status(self.status_path, force=True).get("settings") if self.stated is not None else None
        return self.settings if earlier is None else without_new_defaults(self.settings, earlier, self.stated)

    @property
    def _file_stem(self) -> str:
        return self.label.replace(" ", "-")


def run_task(
    task: StageTask, force: bool, report: Report, on_change: Callable[[], object], ranks: Ranks = ALONE
) -> bool:
    """Run the task unless it is done; return whether anything ran. Called by all processes of a run.

    Raises:
        StoppedEarly: a process was stopped; the others have then finished their part.
        AsrKdError: another run holds the lock, or any error of the task itself.
    """
    lock = hold_lock(task.status_path.with_suffix(".lock"), task.label)
    with lock if ranks.first and not task.shared else nullcontext():
        status = ranks.broadcast(_begin(task, force, report, on_change) if ranks.first else None)
        if status is None:
            return False
        started = time.monotonic()
        if task.parallel and ranks.count > 1:
            _run_in_all(task, ranks)
        elif ranks.first:
            task.run(task.folder)
        if ranks.first:
            unfinished = task.finish(task.folder) if task.finish is not None else None
            seconds = round(time.monotonic() - started, 1)
            if unfinished is None:
                finished = {"finished": time.strftime("%Y-%m-%d %H:%M"), "seconds_last_run": seconds}
                write_json(task.status_path, {**status, "done": True, **finished, "results": _result_hashes(task)})
            report(f"[{task.label}] " + (f"done in {seconds:.0f} s" if unfinished is None else unfinished))
        ranks.barrier()
    return True


def settings_difference(task: StageTask) -> str | None:
    """Return the first setting in which a task's present result differs from the task; None without a result."""
    status = _read_status(task.status_path, force=False) if task.folder.exists() else {}
    return first_difference(status["settings"], json.loads(json.dumps(task.settings_in_key()))) if status else None


def _begin(task: StageTask, force: bool, report: Report, on_change: Callable[[], object]) -> dict[str, Any] | None:
    """Archive or restore earlier results and write the status; return it, or None when the task is done."""
    key, settings = task.cache_key(), task.settings_in_key()
    status = _read_status(task.status_path, force) if task.folder.exists() else {}
    if force or status.get("key", key) != key:
        on_change()
        reason = "--force" if force else first_difference(status.get("settings"), settings) or "its inputs changed"
        _archive_previous(task, status, report, reason)
        status = {}
    if not status and not force:
        status = _restore_previous(task, key, report, on_change)
    if status.get("done"):
        problem = _problem(task, status)
        if problem is None:
            report(f"[{task.label}] unchanged, skipped (done {status.get('finished', '')})")
            return None
        on_change()
        report(f"[{task.label}] runs again: {problem}")
    else:
        on_change()
        report(f"[{task.label}] {'resumes' if status else 'starts'}")
    description = {"stage": task.stage, "name": task.name, "key": key, "settings": settings}
    write_json(task.status_path, {**description, "done": False})
    return description


def _problem(task: StageTask, status: dict[str, Any]) -> str | None:
    """Why a finished task must run again; a damaged result is moved out of its way."""
    missing = [path for path in task.results if not path.exists()]
    if missing:
        return f"{missing[0]} is missing"
    for name, sha256 in _result_hashes(task).items():
        if status.get("results", {}).get(name) != sha256:
            path = task.folder / name
            target = _unused(task.previous_folder(str(status["key"])).with_name(f"{path.name}.damaged"))
            _move(path, target)
            return f"{path} has changed since it was written; it is kept as {target}"
    return None if task.is_intact() else "files of it are missing or damaged"


def _result_hashes(task: StageTask) -> dict[str, str]:
    """SHA-256 of each result in the task's folder, by its relative path."""
    inside = [path for path in task.results if path.is_relative_to(task.folder)]
    return {path.relative_to(task.folder).as_posix(): sha256_of_file(path) for path in inside}


def _run_in_all(task: StageTask, ranks: Ranks) -> None:
    """Run in each process; one that stops early waits for the others, which may be saving their state."""
    stopped: StoppedEarly | None = None
    try:
        task.run(task.folder)
    except StoppedEarly as error:
        stopped = error
    stops = [stop for stop in ranks.gather([stopped.found, stopped.remedy] if stopped is not None else None) if stop]
    if stopped is not None:
        raise stopped
    if stops:
        raise StoppedEarly(stops[0][0], remedy=stops[0][1])


def _read_status(path: Path, force: bool) -> dict[str, Any]:
    """The status of a task; empty when it has none."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        if force:
            return {}
        raise AsrKdError(
            f"cannot be read ({error})", where=path, remedy="Run with --force to repeat this stage"
        ) from error


def _archive_previous(task: StageTask, status: dict[str, Any], report: Report, reason: str) -> None:
    """Move an earlier result to `previous/`: it may have taken hours."""
    if not task.keep_previous or not task.folder.exists():
        report(f"[{task.label}] {reason}")
        return
    archive = _unused(task.previous_folder(str(status.get("key", "unknown"))))
    _move(task.folder, archive)
    if task.status_path.exists():
        _move(task.status_path, _archived_status(archive))
    report(f"[{task.label}] {reason}; the earlier result is kept in {archive}")


def _restore_previous(task: StageTask, key: str, report: Report, on_change: Callable[[], object]) -> dict[str, Any]:
    """Restore the newest earlier result of this cache key from `previous/`; return its status, or an empty one."""
    if not task.keep_previous or task.folder.exists():
        return {}
    archives = _numbered(task.previous_folder(key))
    for number in sorted(archives, reverse=True):
        archive = archives[number]
        status = _read_status(_archived_status(archive), force=True)
        if archive.is_dir() and status.get("key") == key:
            on_change()
            _move(archive, task.folder)
            _move(_archived_status(archive), task.status_path)
            report(f"[{task.label}] the earlier result for these settings is restored from {archive}")
            return status
    return {}


def _archived_status(archive: Path) -> Path:
    return archive.with_name(f"{archive.name}.json")


def _unused(path: Path) -> Path:
    """The path itself, or with a number behind it, above those that exist, where something exists already."""
    number = max(_numbered(path), default=0) + 1
    return path if number == 1 else path.with_name(f"{path.name}-{number}")


def _numbered(path: Path) -> dict[int, Path]:
    """Paths of this name that exist, or of which a status exists, by their number: a higher one is newer."""
    name = re.compile(re.escape(path.name) + r"(?:-(\d+))?(?:\.json)?")
    found = [match for match in map(name.fullmatch, _names(path.parent)) if match]
    return {int(match[1] or 1): path.with_name(match[0].removesuffix(".json")) for match in found}


def _names(folder: Path) -> list[str]:
    """Names in a folder; none where it does not exist."""
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    except OSError as error:
        raise AsrKdError(
            f"cannot be moved to {target} ({error.strerror or error})", where=source, remedy="Move or remove it by hand"
        ) from error


TIMEOUT_SECONDS = 5.0
"""Time for another run to find the task done and release the lock."""


@contextmanager
def hold_lock(path: Path, label: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """Hold the lock file at `path` inside the block, once another run releases it.

    File systems without locks exclude no run.

    Raises:
        AsrKdError: another run holds the lock, or the file cannot be created.
    """
    locks, deadline, is_locked = LocalStorage(path.parent), time.monotonic() + timeout_seconds, True
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while (owner := locks.acquire(path.stem)) is not None:
            if time.monotonic() >= deadline:
                raise AsrKdError(
                    f"another run is working on it, {owner}",
                    where=label,
                    expected="one run at a time",
                    remedy="Wait until that run ends, stop it, or name another work_dir",
                )
            time.sleep(0.05)
    except NoLocksError:
        is_locked = False
    except TargetsError as error:
        raise AsrKdError(error.found, where=path) from error
    except OSError as error:
        raise AsrKdError(f"cannot be written ({error.strerror or error})", where=path) from error
    try:
        yield
    finally:
        if is_locked:
            locks.release(path.stem)
