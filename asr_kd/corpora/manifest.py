"""Utterances, and JSON Lines manifests of them, one utterance per row. Audio is not opened here."""

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from asr_kd.audio import ChannelPolicy
from asr_kd.errors import CorpusError
from asr_kd.files import atomic_path, loads_json

MAX_ID_LENGTH = 200
"""Longest utterance id; ids become parts of file names, of which file systems allow 255 bytes."""

LISTED_AT_MOST = 20
"""Rows or files that one message lists; the rest is counted."""

T = TypeVar("T")

_KEYS = ("id", "audio", "duration", "text", "speaker")


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
    text = render_manifest(utterances, path)
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def render_manifest(utterances: Iterable[Utterance], path: Path = Path("the manifest")) -> str:
    """Return the text that `write_manifest` writes; errors name the rows by `path`."""
    rows = [_row_of(utterance) for utterance in utterances]
    raise_wrong_rows(_row_problems(rows), path)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


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
    rows = [_parse_row(line) for line in lines] if lines != [""] else []
    raise_wrong_rows(_row_problems(rows), path)
    utterances = [
        Utterance(
            row["id"],
            (root or path.parent) / row["audio"],
            float(row["duration"]),
            row["text"],
            row["speaker"],
            row.get("channels", "refuse"),
            float(row.get("start", 0.0)),
            "start" not in row,
        )
        for row in rows
        if isinstance(row, dict)
    ]
    if check_files:
        raise_wrong_rows(
            [(row, f"{u.audio}: no such file") for row, u in enumerate(utterances, 1) if not u.audio.is_file()], path
        )
    return utterances


def read_text(path: Path, expected: str, remedy: str) -> str:
    """Read a text file in UTF-8, gzipped if its name ends in .gz.

    Raises:
        CorpusError: cannot be read; with the given expectation and remedy.
    """
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").replace("\r\n", "\n")
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


def _parse_row(line: str) -> dict[str, Any] | str:
    """The row as a mapping, or what is wrong with its JSON."""
    try:
        row = loads_json(line)
    except ValueError as error:
        return f"not JSON ({error})"
    return row if isinstance(row, dict) else f"{type(row).__name__} instead of a mapping"


def _row_problems(rows: Sequence[dict[str, Any] | str]) -> list[tuple[int, str]]:
    """(row from 1, problem) of every row that is not an utterance and of every repeated id."""
    problems: list[tuple[int, str]] = []
    first_row: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        problem = row if isinstance(row, str) else _field_problem(row)
        if problem is None and isinstance(row, dict):
            first = first_row.setdefault(row["id"], number)
            if first != number:
                problem = f"the id {row['id']!r} occurs in rows {first} and {number}"
        if problem is not None:
            problems.append((number, problem))
    return problems


def _field_problem(row: dict[str, Any]) -> str | None:
    missing = [key for key in _KEYS if key not in row]
    if missing:
        return f"no {', '.join(missing)}"
    for key in ("id", "audio", "speaker"):
        if not isinstance(row[key], str):
            return f"{key} is {row[key]!r}, not a string"
    if not isinstance(row["text"], str | None):
        return f"text is {row['text']!r}, neither a string nor null"
    if not row["audio"] or "\0" in row["audio"]:
        return f"audio is {row['audio']!r}, not a path"
    duration = row["duration"]
    if isinstance(duration, bool) or not isinstance(duration, int | float) or not 0 < duration < math.inf:
        return f"duration is {duration!r}, not a positive number of seconds"
    if row.get("channels", "refuse") not in get_args(ChannelPolicy):
        return f"channels is {row['channels']!r}, none of {', '.join(get_args(ChannelPolicy))}"
    start = row.get("start", 0.0)
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 <= start < math.inf:
        return f"start is {start!r}, not a number of seconds from 0"
    problem = id_problem(row["id"])
    return f"the id {row['id'][:40]!r} {problem}" if problem else None


def raise_wrong_rows(
    problems: list[tuple[int, str]],
    path: Path,
    expected: str = "rows of id, audio, duration, text and speaker, each id once",
    remedy: str = "Correct the manifest, or run prepare again",
) -> None:
    """Raise an error about wrong rows, each (row from 1, problem), if there are any.

    Raises:
        CorpusError: names the first of them by file:row, and counts the others.
    """
    if not problems:
        return
    listed = "; ".join(f"{path}:{row}: {problem}" for row, problem in problems[:LISTED_AT_MOST])
    more = f"; and {len(problems) - LISTED_AT_MOST} more" if len(problems) > LISTED_AT_MOST else ""
    raise CorpusError(f"{len(problems)} wrong rows: {listed}{more}", expected=expected, remedy=remedy)


def even_sample(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items at even distances, in their order."""
    count = min(count, len(items))
    return [items[(2 * index + 1) * len(items) // (2 * count)] for index in range(count)]
