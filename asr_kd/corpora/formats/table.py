"""Tables that manifests of any format are read into, and the parts that all readers and writers share."""

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asr_kd.corpora.manifest import Utterance, id_problem, raise_wrong_rows, read_text
from asr_kd.corpora.recordings import Exclusion, Recording
from asr_kd.files import loads_json

UNKNOWN_SPEAKER = "unknown"
"""Speaker of rows that name none."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Row = TypeVar("Row")


class Malformed(ValueError):
    """A row that violates its format; all such rows of a file become one error."""


class Unfit(ValueError):
    """A valid row, with its id, that cannot be an utterance; it is listed and left out."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason)
        self.name = name


@dataclass
class Table:
    """Rows of a manifest."""

    recordings: list[Recording] = field(default_factory=list)
    excluded: list[Exclusion] = field(default_factory=list)
    """Rows that cannot be utterances; with the manifest's path, and a reason that begins with the row."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Fields without a counterpart → number of rows."""
    files: list[Path] = field(default_factory=list)
    """Files that were read."""

    def drop(self, row: dict[str, Any], known: Iterable[str]) -> None:
        """Count the keys of a row that are not used."""
        self.dropped.update(key for key in row.keys() - set(known) if row[key] not in (None, "", {}, []))

    def collect(self, path: Path, rows: Iterable[tuple[int, Row]], parse: Callable[[Row], Recording]) -> None:
        """Add every row of a file that is an utterance, and list those that cannot be.

        Raises:
            CorpusError: names all rows that are malformed, or have an unusable or repeated id.
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
                problems.append((number, f"the id {recording.id!r} occurs in rows {first} and {number}"))
            else:
                self.recordings.append(recording)
        raise_wrong_rows(problems, path, expected="rows of its format, each id once", remedy="Correct the manifest")


@dataclass
class Rendering:
    """A manifest as text, before anything is written."""

    texts: dict[str, str]
    """File name → content; the name is '' where the format is one file."""
    utterances: int = 0
    excluded: list[Exclusion] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Further remarks, one sentence each."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a text file, gzipped or not, with their numbers from 1.

    Raises:
        CorpusError: cannot be read, or is not UTF-8.
    """
    lines = read_text(path, "a manifest in UTF-8", "Check the path").split("\n")
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def json_object(line: str) -> dict[str, Any]:
    """Parse a line of JSON Lines.

    Raises:
        Malformed: not JSON, or not a mapping.
    """
    try:
        row = loads_json(line)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise Malformed(f"{type(row).__name__} instead of a mapping (JSON Lines has one per line)")
    return row


def json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Render rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def seconds(row: dict[str, Any], key: str, *, least: float = 0.0, default: float | None = None) -> float:
    """Return a number of seconds of a row, at least `least`.

    Raises:
        Malformed: missing, not a finite number, or below.
    """
    value = row.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise Malformed(f"{key} is {value!r}, not a number of seconds" + (" from 0" if least == 0 else ""))
    return float(value)


def positive_seconds(row: dict[str, Any], key: str) -> float:
    """Return a number of seconds above 0.

    Raises:
        Malformed: missing, not a finite number, or not above 0.
    """
    value = seconds(row, key, least=-math.inf)
    if value <= 0:
        raise Malformed(f"{key} is {value!r}, not a positive number of seconds")
    return value


def finite_number(value: Any, what: str = "") -> float:
    """Return the number that a text states, with the name of its column in errors.

    Raises:
        Malformed: not a number, or not a finite one.
    """
    stated = f"{what} is {value!r}, not" if what else f"{value!r} is not"
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise Malformed(f"{stated} a number") from error
    if not -1e12 < number < 1e12:
        raise Malformed(f"{stated} a finite number")
    return number


def optional_text(row: dict[str, Any], key: str) -> str | None:
    """Return a string of a row; None where it is missing or null.

    Raises:
        Malformed: neither.
    """
    value = row.get(key)
    if not isinstance(value, str | None):
        raise Malformed(f"{key} is {value!r}, not a string")
    return value


def required_text(row: dict[str, Any], key: str) -> str:
    """Return a string of a row.

    Raises:
        Malformed: missing, empty or not a string.
    """
    value = optional_text(row, key)
    if not value:
        raise Malformed(f"no {key}")
    return value


def audio_path(written: str, base: Path, name: str = "") -> Path:
    """Return the path of a row's audio; relative paths start at `base`. `name` is the row's id.

    Raises:
        Malformed: not a path.
        Unfit: an address on the network.
    """
    if not written.strip() or "\0" in written:
        raise Malformed(f"the audio is {written!r}, not a path")
    if _URL.match(written):
        raise Unfit(f"its audio is at {written}, not in a file here", name)
    return base / written


_LONGEST = 120
_UNUSABLE = re.compile(r"[\s\\/\x00-\x1f\x7f]+")


def name_of(relative: Path) -> str:
    """Return an utterance id of a file's path below a folder: a/b c.wav gives a-b_c."""
    written = "-".join((*relative.parts[:-1], relative.stem))
    name = "".join(letter if letter.isprintable() else "_" for letter in _UNUSABLE.sub("_", written))
    if len(name) <= _LONGEST:
        return name
    return f"{name[-_LONGEST:]}-{hashlib.sha256(written.encode(errors='replace')).hexdigest()[:8]}"


def segment_name(name: str, start: float) -> str:
    """Return the id of a segment that starts `start` seconds into the file; with milliseconds, so that it sorts."""
    return f"{name}-{round(1000 * start):08d}"


def names_of_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a name per file: its stem if all stems differ, else its path below the common folder."""
    files = list(dict.fromkeys(paths))
    names = {path: name_of(Path(path.name)) for path in files}
    if len(set(names.values())) == len(files):
        return names
    shared = os.path.commonpath([path.absolute().parent for path in files])
    return {path: name_of(path.absolute().relative_to(shared)) for path in files}


def recording_names(utterances: Sequence[Utterance]) -> dict[Path, str]:
    """Return a name per file: the id of its only utterance, else a name of the path."""
    uses = Counter(utterance.audio for utterance in utterances)
    names = {u.audio: u.id for u in utterances if u.whole and uses[u.audio] == 1}
    taken = set(names.values())
    for path, name in names_of_files(path for path in uses if path not in names).items():
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        names[path] = free
    return names
