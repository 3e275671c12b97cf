"""What a manifest of any format comes to, and what reading its rows has in common.

Knows no format: each says what a row means; here rows are numbered, counted, compared and complained about.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asr_kd.corpora.manifest import id_problem, raise_wrong_rows, read_text
from asr_kd.corpora.recordings import Exclusion, Recording

UNKNOWN_SPEAKER = "unknown"
"""The speaker of rows that name none: one for all, so that nothing is averaged by speaker that is not one."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Row = TypeVar("Row")


class Malformed(ValueError):
    """A row that is not what its format says: an error, with all others of the file."""


class Unfit(ValueError):
    """A row in order that cannot be an utterance here: listed and left out.

    Args:
        reason: why, as a statement.
        name: the row's id, where it has one.
    """

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason)
        self.name = name


@dataclass
class Table:
    """What was read."""

    recordings: list[Recording] = field(default_factory=list)
    excluded: list[Exclusion] = field(default_factory=list)
    """Rows that cannot be utterances; the path is the manifest's, the reason begins with the row."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What rows say and utterances have no place for → how many rows say it."""
    files: list[Path] = field(default_factory=list)
    """Everything that was read."""

    def drop(self, row: dict[str, Any], known: Iterable[str]) -> None:
        """Count the keys of a row that are not carried over."""
        self.dropped.update(key for key in row.keys() - set(known) if row[key] not in (None, "", {}, []))

    def collect(self, path: Path, rows: Iterable[tuple[int, Row]], parse: Callable[[Row], Recording]) -> None:
        """Add every row of a file that is an utterance, list those that cannot be.

        Raises:
            CorpusError: rows that are malformed, with an unusable id, or with one that stands twice; all in one.
        """
        problems: list[tuple[int, str]] = []
        first_row: dict[str, int] = {}
        for number, row in rows:
            try:
                recording = parse(row)
            except Malformed as error:
                problems.append((number, str(error)))
                continue
            except Unfit as error:
                self.excluded.append(Exclusion(error.name or "–", path, f"row {number}: {error}"))
                continue
            problem = id_problem(recording.id)
            first = first_row.setdefault(recording.id, number)
            if problem:
                problems.append((number, f"the id {recording.id[:40]!r} {problem}"))
            elif first != number:
                problems.append((number, f"the id {recording.id!r} stands in rows {first} and {number}"))
            else:
                self.recordings.append(recording)
        raise_wrong_rows(problems, path, expected="rows of its format, each id once", remedy="Correct the manifest")


@dataclass
class Rendering:
    """A manifest as text, before anything is written."""

    texts: dict[str, str]
    """File name → content; one file under the name '' where the format is a file and not a folder."""
    utterances: int = 0
    excluded: list[Exclusion] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """What became of the utterances otherwise, a sentence each."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, gzipped or not, that are not empty, with their numbers from 1.

    Raises:
        CorpusError: cannot be read, or is not UTF-8.
    """
    lines = read_text(path, "a manifest in UTF-8", "Check the path").split("\n")
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def json_object(line: str) -> dict[str, Any]:
    """A line of JSON Lines.

    Raises:
        Malformed: not JSON, or no mapping.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise Malformed(f"{type(row).__name__} instead of a mapping (JSON Lines has one a line)")
    return row


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def seconds(row: dict[str, Any], key: str, *, least: float = 0.0, default: float | None = None) -> float:
    """A number of seconds in a row, at least `least`.

    Raises:
        Malformed: missing, not a finite number, or below.
    """
    value = row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise Malformed(f"{key} is {value!r}, not a number of seconds" + (" from 0" if least == 0 else ""))
    return float(value)


def positive_seconds(row: dict[str, Any], key: str) -> float:
    """A number of seconds above 0.

    Raises:
        Malformed: missing, not a finite number, or not above 0.
    """
    value = seconds(row, key, least=-math.inf)
    if value <= 0:
        raise Malformed(f"{key} is {value!r}, not a positive number of seconds")
    return value


def optional_text(row: dict[str, Any], key: str) -> str | None:
    """A string in a row; None where it is missing or null.

    Raises:
        Malformed: something else.
    """
    value = row.get(key)
    if not isinstance(value, str | None):
        raise Malformed(f"{key} is {value!r}, not a string")
    return value


def required_text(row: dict[str, Any], key: str) -> str:
    """A string in a row.

    Raises:
        Malformed: missing, empty or not a string.
    """
    value = optional_text(row, key)
    if not value:
        raise Malformed(f"no {key}")
    return value


def audio_path(written: str, base: Path, name: str = "") -> Path:
    """Where a row's audio lies; a relative path starts at `base`. `name` is the row's id, for the list.

    Raises:
        Malformed: not a path.
        Unfit: an address on the network.
    """
    if not written.strip() or "\0" in written:
        raise Malformed(f"the audio is {written!r}, not a path")
    if _URL.match(written):
        raise Unfit(f"its audio is at {written}, not in a file here", name)
    return base / written
