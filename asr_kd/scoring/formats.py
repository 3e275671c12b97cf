"""Transcripts as other tools write them, a row each: Kaldi's `text`, sclite's trn and ctm; read and written.

Sources: sclite's manual (NIST SCTK, doc/infmts.htm); Kaldi's data preparation. Rows that are not of the form go to the
caller's `report`.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr_kd.errors import EvaluationError
from asr_kd.files import loads_json

ReportProblem = Callable[[str], None]
"""Called with a description of a wrong row."""

CHANNEL = "1"
"""What ctm files call the only channel."""
_TRN = re.compile(r"(.*?)\s*\(([^()\s]+)\)")
_COMMENT = ";;"


class TimedWord(NamedTuple):
    """A word with its time, seconds from the beginning."""

    word: str
    start: float
    duration: float
    confidence: float | None = None


class TranscriptRow(NamedTuple):
    """One row of a file."""

    name: str
    """An utterance's id, or its audio file."""
    where: str
    """File and line."""
    text: str
    words: tuple[TimedWord, ...] = ()
    """Where the form has times."""


def is_number(value: Any) -> bool:
    """Return whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def numbered_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where and what: every line that is not blank.

    Raises:
        OSError, UnicodeDecodeError: unreadable, or not UTF-8.
    """
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return ((f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def json_rows(path: Path, report: ReportProblem) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON Lines file, each with where it stands."""
    for where, line in numbered_lines(path):
        try:
            row = loads_json(line)
        except ValueError as error:
            report(f"{where}: not JSON ({error})")
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            report(f"{where}: {type(row).__name__} instead of a mapping")


def kaldi_rows(path: Path, report: ReportProblem) -> Iterator[TranscriptRow]:
    """`id words …`, which is also what many call a text file with ids; every line that is not blank is one."""
    for where, line in numbered_lines(path):
        name, *words = line.split(maxsplit=1)
        yield TranscriptRow(name, where, "".join(words).strip())


def trn_rows(path: Path, report: ReportProblem) -> Iterator[TranscriptRow]:
    """`words … (id)`; lines that begin with ;; are comments. Alternatives `{ a / b }` are reported, not read."""
    for where, line in _not_comments(path):
        found = _TRN.fullmatch(line.strip())
        if not found:
            report(f"{where}: no id in parentheses at its end")
        elif {"{", "}"} & set(found[1].split()):
            report(f"{where}: alternatives in braces, which are not read: leave one of them")
        else:
            yield TranscriptRow(found[2], where, found[1])


def ctm_rows(path: Path, report: ReportProblem) -> Iterator[TranscriptRow]:
    """A line a word: name, channel, start, duration, word, and maybe a confidence and more.

    The words of a name need not be in order. A name without a word does not stand in such a file at all.
    """
    words: dict[str, list[TimedWord]] = {}
    first: dict[str, tuple[str, str]] = {}  # name → its channel, and where
    for where, line in _not_comments(path):
        fields = line.split()
        word = _timed_word(fields)
        if word is None:
            report(f"{where}: not name, channel, start, duration and word")
            continue
        channel, before = first.setdefault(fields[0], (fields[1], where))
        if channel != fields[1]:
            report(f"{where}: {fields[0]!r} is on channel {fields[1]}, and in {before} on {channel}")
            continue
        words.setdefault(fields[0], []).append(word)
    for name, timed in words.items():
        in_order = sorted(timed, key=lambda word: word.start)
        yield TranscriptRow(name, first[name][1], " ".join(word.word for word in in_order), tuple(in_order))


def text_line(form: str, name: str, text: str) -> str:
    """A line of Kaldi's `text` ("kaldi") or of a trn file.

    Raises:
        EvaluationError: an id or text that the form cannot represent.
    """
    trn = form == "trn"
    markup = {"{", "}"} & set(text.split()) or text.startswith(_COMMENT) or re.search(r"[()]", name)
    if len(name.split()) != 1 or name != name.strip() or "\n" in text or (trn and markup):
        raise _cannot_be_written(name, text, form)
    return (f"{text} ({name})".lstrip() if trn else f"{name} {text}".rstrip()) + "\n"


def is_ctm_name(name: str) -> bool:
    """Whether a name can stand in a ctm file: without white space, and not read as a comment."""
    return name.split() == [name] and not name.startswith(_COMMENT)


def ctm_lines(name: str, words: Sequence[TimedWord]) -> str:
    """The lines of a name in a ctm file: none where it has no word.

    Raises:
        EvaluationError: a name or word with white space, or a name that begins as a comment.
    """
    lines = []
    for word in words:
        if not is_ctm_name(name) or word.word.split() != [word.word]:
            raise _cannot_be_written(name, word.word, "ctm")
        confidence = "" if word.confidence is None else f" {word.confidence:.4f}"
        lines.append(f"{name} {CHANNEL} {word.start:.3f} {word.duration:.3f} {word.word}{confidence}\n")
    return "".join(lines)


def _not_comments(path: Path) -> Iterable[tuple[str, str]]:
    return ((where, line) for where, line in numbered_lines(path) if not line.lstrip().startswith(_COMMENT))


def _timed_word(fields: Sequence[str]) -> TimedWord | None:
    """Of the fields of a line; None when they are not those of a word."""
    if not 5 <= len(fields) <= 8 or fields[4].upper().startswith("<ALT"):  # sclite's alternatives
        return None
    try:
        start, duration = float(fields[2]), float(fields[3])
        confidence = float(fields[5]) if len(fields) > 5 and fields[5] != "NA" else None
    except ValueError:
        return None
    numbers = (start, duration, confidence or 0.0)
    return TimedWord(fields[4], start, duration, confidence) if all(map(math.isfinite, numbers)) else None


def _cannot_be_written(name: str, text: str, form: str) -> EvaluationError:
    return EvaluationError(
        f"the utterance {name!r} ({text[:60]!r}) cannot be written as {form}",
        expected="an id without white space, and text without what the form uses itself",
        remedy="Write JSON Lines, which take any text",
    )
