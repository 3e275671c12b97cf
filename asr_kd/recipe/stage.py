"""A unit of work with a key: done once for its settings and inputs, skipped after that, resumed when cut off.

When settings change, what an earlier run left is kept under `previous/`, and taken back when they change back. Among
several processes the first one decides, moves and marks; the others help in units that can use them, or wait.
"""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import AsrKdError, StoppedEarly
from asr_kd.files import sha256_of, write_json
from asr_kd.recipe.work_dir_lock import alone

VERSION = 1
"""Raised when a stage's output changes for the same settings, so that old results are not taken for new ones."""


@dataclass(frozen=True)
class Unit:
    """One unit: a stage, or one model of it."""

    stage: str
    name: str
    work_dir: Path
    folder: Path  # its results, and nothing but them: bundles are copied away whole
    settings: Any  # plain data that decides the result, beside the inputs
    inputs: Callable[[], Any]  # plain data that identifies the inputs; called when they are there
    run: Callable[[Path], None]
    results: tuple[Path, ...]  # files without which it is not done, whatever its marker says
    kept: bool = True  # the folder is set aside when settings change; otherwise `run` writes over it
    parallel: bool = False  # `run` is called in every process; otherwise in the first one only
    finish: Callable[[Path], str | None] | None = None
    """Called in the first process after `run` has ended in all of them; may return why the unit is not done yet."""
    whole: Callable[[], bool] = lambda: True
    """Asked when all results are there: whether what belongs to them is, and undamaged."""
    shared: bool = False  # several runs may be at it at once: they divide it among themselves
    owner: str | None = None  # the teacher that it belongs to: naming that one means this unit too

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return self.stage if self.stage == self.name else f"{self.stage} {self.name}"

    @property
    def marker(self) -> Path:
        """What was done, for which key; beside the results, not among them."""
        return self.work_dir / "stages" / f"{self._slug}.json"

    def previous(self, key: str) -> Path:
        """Where a result for another key is kept."""
        return self.work_dir / "previous" / f"{self._slug}-{key[:8]}"

    def key(self) -> str:
        """Hash of the settings and inputs."""
        return sha256_of([VERSION, self.stage, self.settings, self.inputs()])

    @property
    def lock(self) -> Path:
        """Held while it is done."""
        return self.marker.with_suffix(".lock")

    @property
    def _slug(self) -> str:
        return self.label.replace(" ", "-")


def run_unit(
    unit: Unit, force: bool, say: Callable[[str], None], on_change: Callable[[], object], ranks: Ranks = ALONE
) -> bool:
    """Do the unit unless it is done; returns whether anything ran. Called by all processes of a run.

    Args:
        unit: what to do.
        force: do it although it is done.
        say: takes messages.
        on_change: called before anything is changed.
        ranks: the processes of the run.

    Raises:
        StoppedEarly: a process was asked to stop; the others have then finished their part.
        AsrKdError: another run is at this unit, or whatever the unit meets.
    """
    with alone(unit.lock, unit.label) if ranks.first and not unit.shared else nullcontext():
        return _run_unit(unit, force, say, on_change, ranks)


def _run_unit(
    unit: Unit, force: bool, say: Callable[[str], None], on_change: Callable[[], object], ranks: Ranks
) -> bool:
    description = ranks.broadcast(_begin(unit, force, say, on_change) if ranks.first else None)
    if description is None:
        return False
    started = time.monotonic()
    if unit.parallel and ranks.count > 1:
        _run_in_all(unit, ranks)
    elif ranks.first:
        unit.run(unit.folder)
    if ranks.first:
        left = unit.finish(unit.folder) if unit.finish is not None else None
        seconds = round(time.monotonic() - started, 1)
        finished = time.strftime("%Y-%m-%d %H:%M")
        if left is None:
            write_json(unit.marker, {**description, "done": True, "finished": finished, "seconds_last_run": seconds})
        say(f"[{unit.label}] " + (f"done in {seconds:.0f} s" if left is None else left))
    ranks.barrier()
    return True


def _begin(
    unit: Unit, force: bool, say: Callable[[str], None], on_change: Callable[[], object]
) -> dict[str, Any] | None:
    """Clear the place and mark the unit as begun; returns what the marker says of it, or None when it is done."""
    key = unit.key()
    marker = _read_marker(unit.marker, force) if unit.folder.exists() else {}
    if force or marker.get("key", key) != key:
        on_change()
        why = "--force" if force else _difference(marker.get("settings"), unit.settings)
        _set_aside(unit, marker, say, why)
        marker = {}
    if not marker and not force:
        marker = _take_back(unit, key, say, on_change)
    gone = [path for path in unit.results if not path.exists()]
    if marker.get("done") and not gone and unit.whole():
        say(f"[{unit.label}] unchanged, skipped (done {marker.get('finished', '')})")
        return None
    on_change()
    if marker.get("done"):
        why = f"{gone[0]} is gone" if gone else "files of it are missing or damaged"
        say(f"[{unit.label}] is done again: {why}")
    else:
        say(f"[{unit.label}] {'goes on' if marker else 'starts'}")
    description = {"stage": unit.stage, "name": unit.name, "key": key, "settings": unit.settings}
    write_json(unit.marker, {**description, "done": False})
    return description


def _run_in_all(unit: Unit, ranks: Ranks) -> None:
    """Each process does its part; one that stops early waits for the others, which may be writing what they have."""
    stopped: StoppedEarly | None = None
    try:
        unit.run(unit.folder)
    except StoppedEarly as error:
        stopped = error
    said = [words for words in ranks.gather([stopped.found, stopped.remedy] if stopped is not None else None) if words]
    if stopped is not None:
        raise stopped
    if said:
        raise StoppedEarly(said[0][0], remedy=said[0][1])


def _read_marker(path: Path, force: bool) -> dict[str, Any]:
    """What was done for a unit; empty when nothing was."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        if force:
            return {}
        raise AsrKdError(
            f"cannot be read ({error})", where=path, remedy="Run with --force to do this stage again"
        ) from error
    return marker if isinstance(marker, dict) else {}


def _set_aside(unit: Unit, marker: dict[str, Any], say: Callable[[str], None], why: str) -> None:
    """Keep what an earlier run left: it may have taken hours."""
    if not unit.kept or not unit.folder.exists():
        say(f"[{unit.label}] {why}")
        return
    wanted = aside = unit.previous(str(marker.get("key", "unknown")))
    number = 1
    while aside.exists():  # by an earlier --force
        number += 1
        aside = wanted.with_name(f"{wanted.name}-{number}")
    _move(unit.folder, aside)
    if unit.marker.exists():
        _move(unit.marker, _marker_of(aside))
    say(f"[{unit.label}] {why}; the earlier result is kept in {aside}")


def _take_back(unit: Unit, key: str, say: Callable[[str], None], on_change: Callable[[], object]) -> dict[str, Any]:
    """Bring back an earlier result of this very key; returns its marker, or an empty one."""
    aside = unit.previous(key)
    marker = _read_marker(_marker_of(aside), force=True)
    if not unit.kept or unit.folder.exists() or not aside.is_dir() or marker.get("key") != key:
        return {}
    on_change()
    _move(aside, unit.folder)
    _move(_marker_of(aside), unit.marker)
    say(f"[{unit.label}] the earlier result for these settings is taken back from {aside}")
    return marker


def _marker_of(aside: Path) -> Path:
    return aside.with_name(f"{aside.name}.json")


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(source, target)
    except OSError as error:
        raise AsrKdError(
            f"cannot be moved to {target} ({error.strerror or error})", where=source, remedy="Move or remove it by hand"
        ) from error


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first setting that differs, for the message."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                if key not in old and not path:  # a later setting, which is no part of the key at its default
                    return f"{key} was as by default, is {new[key]!r}"
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return f"{path} was {old!r}, is {new!r}" if old != new else "its inputs changed"
