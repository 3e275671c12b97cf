"""A unit of work with a key: done once for its settings and inputs, skipped after that, resumed when cut off."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_kd.errors import AsrKdError
from asr_kd.files import sha256_of, write_json

VERSION = 1
"""Raised when a stage's output changes for the same settings, so that old results are not taken for new ones."""


@dataclass(frozen=True)
class Unit:
    """One unit: a stage, or one model of it."""

    stage: str
    name: str
    folder: Path  # its results, and nothing but them: bundles are copied away whole
    marker: Path  # what was done for which key; beside the results, not among them
    settings: Any  # plain data that decides the result, beside the inputs
    inputs: Callable[[], Any]  # plain data that identifies the inputs; called when they are there
    run: Callable[[Path], None]
    replaced_whole: bool = True  # the folder is this unit's own and is set aside when its settings change

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return self.stage if self.stage == self.name else f"{self.stage} {self.name}"

    def key(self) -> str:
        """Hash of the settings and inputs."""
        return sha256_of([VERSION, self.stage, self.settings, self.inputs()])


def read_marker(path: Path) -> dict[str, Any]:
    """What was done for a unit; empty when nothing was."""
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AsrKdError(
            f"cannot be read ({error})", where=path, remedy="Run with --force to do this stage again"
        ) from error
    return marker if isinstance(marker, dict) else {}


def run_unit(unit: Unit, force: bool, say: Callable[[str], None]) -> bool:
    """Do the unit unless it is done; returns whether anything ran."""
    key = unit.key()
    marker = read_marker(unit.marker) if unit.folder.exists() and not force else {}
    if marker.get("key") == key and marker.get("done"):
        say(f"[{unit.label}] unchanged, skipped (done {marker.get('finished', '')})")
        return False
    if force:
        _set_aside(unit, say, "--force")
    elif marker and marker.get("key") != key:
        _set_aside(unit, say, f"settings or inputs changed: {_difference(marker.get('settings'), unit.settings)}")
    say(f"[{unit.label}] {'goes on' if marker.get('key') == key else 'starts'}")
    description = {"stage": unit.stage, "name": unit.name, "key": key, "settings": unit.settings}
    write_json(unit.marker, {**description, "done": False})
    started = time.monotonic()
    unit.run(unit.folder)
    seconds = round(time.monotonic() - started, 1)
    finished = time.strftime("%Y-%m-%d %H:%M")
    write_json(unit.marker, {**description, "done": True, "finished": finished, "seconds_last_run": seconds})
    say(f"[{unit.label}] done in {seconds:.0f} s")
    return True


def _set_aside(unit: Unit, say: Callable[[str], None], why: str) -> None:
    """Keep what an earlier run left, one generation of it, under another name: it may have taken hours."""
    if not unit.replaced_whole or not unit.folder.exists():
        return
    aside = unit.folder.with_name(f"{unit.folder.name}.previous")
    shutil.rmtree(aside, ignore_errors=True)
    unit.folder.rename(aside)
    say(f"[{unit.label}] {why}; the earlier result is kept in {aside}")


def _difference(old: Any, new: Any, path: str = "") -> str:
    """The first setting that differs, for the message."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    return f"{path} was {old!r}, is {new!r}" if old != new else "an input"
