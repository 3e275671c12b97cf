"""Utterances, and JSON Lines manifests of them, one utterance per row. Audio is not opened here."""

import gzip
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, get_args

from asr_kd.audio import ChannelPolicy
from asr_kd.errors import CorpusError
from asr_kd.files import json_lines, loads_json, write_text

MAX_ID_LENGTH = 200
"""Longest utterance id; ids become parts of file names, of which file systems allow 255 bytes."""

LISTED_AT_MOST = 20
"""Rows or files that one message lists; the rest is counted."""

T = TypeVar("T")
Row = TypeVar("Row")


class WithId(Protocol):
    """What a row describes: it has an id."""

    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=WithId)

ROWS = "rows of id, audio, duration, text and speaker, each id once"
REMEDY = "Correct the manifest, or run prepare again"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One stretch of speech: a file of its own, or a segment of a longer one."""

    id: str
    audio: Path
    duration: float  # seconds
    text: str | None  # None: not transcribed (usable for distillation only)
    speaker: str
    channels: ChannelPolicy = "refuse"  # how a file of several channels is read
    start: float = 0.0  # seconds into the file
    whole: bool = True  # the utterance is the whole file; False for segments

    def __post_init__(self) -> None:
        if self.start > 0:
            object.__setattr__(self, "whole", False)

    @property
    def end(self) -> float:
        """Seconds into the file."""
        return self.start + self.duration


def id_problem(utterance_id: str) -> str | None:
    """Return what makes an utterance id unusable, or None.

    Ids are keys of stores, columns of white-space separated files and parts of file names, so a path out of a
    folder, white space, control characters and endless names are refused.
    """
    if not utterance_id:
        return "is empty"
    if len(utterance_id) > MAX_ID_LENGTH:
        return f"has {len(utterance_id)} characters (at most {MAX_ID_LENGTH})"
    if not utterance_id.isprintable() or any(character.isspace() for character in utterance_id):
        return "holds white space, NUL or another control character"
    if "\\" in utterance_id or utterance_id.startswith("/") or ".." in utterance_id.split("/"):
        return "reads like a path out of a folder (absolute, '..' or '\\')"
    return None


def write_manifest(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write utterances as JSON Lines, atomically, their audio as absolute paths.

    Raises:
        CorpusError: an unusable or repeated id, or a duration that is not positive; nothing is written.
    """
    write_text(path, render_manifest(utterances, path))


def render_manifest(utterances: Iterable[Utterance], path: Path = Path("the manifest")) -> str:
    """Return the text that `write_manifest` writes; errors name the rows by `path`."""
    rows = [_row_of(utterance) for utterance in utterances]
    collect_rows(enumerate(rows, start=1), lambda row: _utterance(row, path.parent), path)
    return json_lines(rows)


def read_manifest(path: Path, *, check_files: bool = False, root: Path | None = None) -> list[Utterance]:
    """Read a manifest; further keys are ignored.

    Args:
        path: the JSON Lines file, gzipped if its name ends in .gz.
        check_files: also require every audio file.
        root: where relative audio paths start; None: at the manifest's folder.

    Raises:
        CorpusError: unreadable; rows that are not utterances (each named by file:row); an id twice (both rows);
            or, with `check_files`, missing audio (all files in one message).
    """
    lines = read_text(path, "a manifest in JSON Lines", "Run asr-kd prepare").removesuffix("\n").split("\n")
    rows = enumerate(lines, start=1) if lines != [""] else ()
    utterances = collect_rows(rows, lambda line: _utterance(json_object(line), root or path.parent), path)
    if check_files:
        raise_wrong_rows(
            [(row, f"{u.audio}: no such file") for row, u in enumerate(utterances, 1) if not u.audio.is_file()], path
        )
    return utterances


def read_text(path: Path, expected: str, remedy: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark, gzipped if its name ends in .gz.

    Raises:
        CorpusError: cannot be read; with the given expectation and remedy.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise CorpusError(f"cannot be read ({error})", where=path, expected=expected, remedy=remedy) from error


def hours(utterances: Iterable[Utterance]) -> float:
    """Total duration in hours."""
    return sum(utterance.duration for utterance in utterances) / 3600


def _row_of(utterance: Utterance) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": utterance.id,
        "audio": str(utterance.audio.absolute()),
        "duration": utterance.duration,
        "text": utterance.text,
        "speaker": utterance.speaker,
    }
    if utterance.channels != "refuse":
        row["channels"] = utterance.channels
    if not utterance.whole:
        row["start"] = utterance.start
    return row


def _utterance(row: dict[str, Any], base: Path) -> Utterance:
    missing = [key for key in ("id", "audio", "duration", "text", "speaker") if key not in row]
    if missing:
        raise Malformed(f"no {', '.join(missing)}")
    for key in ("id", "audio", "speaker"):
        if not isinstance(row[key], str):
            raise Malformed(f"{key} is {row[key]!r}, not a string")
    if not row["audio"] or "\0" in row["audio"]:
        raise Malformed(f"audio is {row['audio']!r}, not a path")
    channels = row.get("channels", "refuse")
    if channels not in get_args(ChannelPolicy):
        raise Malformed(f"channels is {channels!r}, none of {', '.join(get_args(ChannelPolicy))}")
    text, duration = optional_text(row, "text"), positive_seconds(row, "duration")
    start = seconds(row, "start", default=0.0)
    return Utterance(
        row["id"], base / row["audio"], duration, text, row["speaker"], channels, start, whole="start" not in row
    )


# -- rows of manifests of any format ---------------------------------------------------------------------


class Malformed(ValueError):
    """A row that violates its format; all such rows of a file become one error."""


def collect_rows(
    rows: Iterable[tuple[int, Row]],
    parse: Callable[[Row], Item | None],
    path: Path,
    expected: str = ROWS,
    remedy: str = REMEDY,
) -> list[Item]:
    """Parse the numbered rows of a file; those of which `parse` returns None are left out.

    Raises:
        CorpusError: names all rows that are malformed, or have an unusable or repeated id.
    """
    found: list[Item] = []
    problems: list[tuple[int, str]] = []
    first_row: dict[str, int] = {}
    for number, row in rows:
        try:
            item = parse(row)
        except Malformed as error:
            problems.append((number, str(error)))
            continue
        if item is None:
            continue
        problem = id_problem(item.id)
        first = first_row.setdefault(item.id, number)
        if problem:
            problems.append((number, f"the id {item.id[:40]!r} {problem}"))
        elif first != number:
            problems.append((number, f"the id {item.id!r} occurs in rows {first} and {number}"))
        else:
            found.append(item)
    raise_wrong_rows(problems, path, expected, remedy)
    return found


def json_object(line: str) -> dict[str, Any]:
    """Parse a line of JSON Lines.

    Raises:
        Malformed: not JSON, not a mapping, or not to be written in UTF-8 (a lone surrogate).
    """
    try:
        row = loads_json(line)
        if "\\ud" in line.lower():
            json_lines([row]).encode()
    except ValueError as error:
        raise Malformed(f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise Malformed(f"{type(row).__name__} instead of a mapping (JSON Lines has one per line)")
    return row


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
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise Malformed(f"{key} is {value!r}, not a positive number of seconds")
    return float(value)


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


def raise_wrong_rows(problems: list[tuple[int, str]], path: Path, expected: str = ROWS, remedy: str = REMEDY) -> None:
    """Raise an error about wrong rows, each (row from 1, problem), if there are any.

    Raises:
        CorpusError: names the first of them by file:row, and counts the others.
    """
    if not problems:
        return
    named = list_some(f"{path}:{row}: {problem}" for row, problem in problems)
    raise CorpusError(f"{len(problems)} wrong rows: {named}", expected=expected, remedy=remedy)


def list_some(items: Iterable[str]) -> str:
    """Return the first of several items for a message, and the number of the others."""
    texts = list(items)
    more = [f"and {len(texts) - LISTED_AT_MOST} more"] if len(texts) > LISTED_AT_MOST else []
    return "; ".join(texts[:LISTED_AT_MOST] + more)


def even_sample(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items at even distances, in their order."""
    count = min(count, len(items))
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]
