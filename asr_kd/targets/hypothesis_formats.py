"""Readers of other systems' hypotheses: Whisper's JSON, JSON Lines, CSV, Kaldi's text, sclite's trn and ctm.

Readers return names and texts; `importing` matches names to utterances.
"""

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from asr_kd.corpora.manifest import list_some
from asr_kd.errors import TargetsError
from asr_kd.files import loads_json
from asr_kd.scoring.formats import (
    ReportProblem,
    TranscriptRow,
    ctm_rows,
    is_number,
    json_rows,
    kaldi_rows,
    trn_rows,
)
from asr_kd.targets.hypotheses import TextHypothesis
from asr_kd.teachers.whisper_transcriber import TimedSegment, Transcription, combine

Form = Literal["whisper", "jsonl", "csv", "kaldi", "trn", "ctm"]

MEASURES = ("avg_logprob", "no_speech_prob", "compression_ratio", "temperature", "language_prob")
"""Names of Whisper's measures in rows and segments; the filters read them."""

_BY_NAME: dict[str, Form] = {".json": "whisper", ".jsonl": "jsonl", ".csv": "csv", ".trn": "trn", ".ctm": "ctm"}


class ImportedHypothesis(NamedTuple):
    """Hypotheses of one name."""

    name: str
    """An utterance's id, or its audio file without folder and suffix."""
    where: str
    """File and row."""
    hypotheses: tuple[TextHypothesis, ...]
    """The best first; at least one, which may be empty."""
    measures: Transcription = Transcription("")
    """Whisper's measures of the best, where the system wrote them; the text is not used."""
    segments: tuple[TimedSegment, ...] = ()
    """Segments, or words, with their times in the audio file."""


def form_of(path: Path) -> Form:
    """Infer the form from a path's name.

    Raises:
        TargetsError: the name suggests none.
    """
    if path.is_dir():
        return "whisper"
    if path.suffix in _BY_NAME:
        return _BY_NAME[path.suffix]
    if path.name == "text":
        return "kaldi"
    if not path.exists():
        raise TargetsError("does not exist", where=path, expected="a file of hypotheses, or a folder of Whisper's JSON")
    raise TargetsError(
        "the form of these hypotheses cannot be inferred from the name",
        where=path,
        expected=f"a folder of Whisper's JSON files, {', '.join(_BY_NAME)}, or Kaldi's `text`",
        remedy=f"Name it: --form {'|'.join(get_args(Form))}",
    )


def read_hypotheses(path: Path, form: Form) -> list[ImportedHypothesis]:
    """Read a file, or a folder of Whisper's files.

    Raises:
        TargetsError: unreadable, or rows that are not of this form (each named), or a name twice (both rows).
    """
    problems: list[str] = []
    read = {
        "whisper": _whisper,
        "jsonl": _json_lines,
        "csv": _csv,
        "kaldi": _plain(kaldi_rows),
        "trn": _plain(trn_rows),
        "ctm": _plain(ctm_rows),
    }[form]
    try:
        found = list(read(path, problems.append))
    except (OSError, UnicodeDecodeError) as error:
        raise TargetsError(f"cannot be read ({error})", where=path, expected="text in UTF-8") from error
    first: dict[str, str] = {}
    for item in found:
        before = first.setdefault(item.name, item.where)
        if before != item.where:
            problems.append(f"{item.name!r} stands in {before} and {item.where}")
    if problems:
        raise TargetsError(
            f"{len(problems)} wrong rows: {list_some(problems)}",
            where=path,
            expected=f"hypotheses in the form {form!r}, each name once",
            remedy="Correct the rows, or choose another --form",
        )
    if not found:
        raise TargetsError("holds no hypotheses", where=path, expected=f"the form {form!r}")
    return found


def _whisper(path: Path, report: ReportProblem) -> Iterator[ImportedHypothesis]:
    """Whisper's output files, one for each audio file: `text`, or whisper.cpp's `transcription`."""
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        try:
            data = loads_json(file.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            report(f"{file}: not JSON ({error})")
            continue
        text = _whisper_text(data)
        if text is None:
            report(f"{file}: neither `text` nor `transcription`, as Whisper writes")
        else:
            # whisper.cpp keeps the audio's suffix: a.wav.json
            name = re.sub(r"\.(wav|flac|mp3|ogg|opus|m4a)$", "", file.stem)
            segments, words = _segments(data), _words(data)
            measures = combine(segments) if segments else Transcription("")
            yield ImportedHypothesis(name, str(file), (TextHypothesis(text),), measures, words or segments)


def _segments(data: dict[str, Any]) -> tuple[TimedSegment, ...]:
    """Segments with times; none where a segment has no times."""
    found = []
    parts = data.get("segments") or data.get("transcription")
    for part in parts if isinstance(parts, list) else []:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            return ()
        offsets = part.get("offsets")  # whisper.cpp's, in milliseconds
        if isinstance(offsets, dict) and is_number(offsets.get("from")) and is_number(offsets.get("to")):
            start, end = offsets["from"] / 1000, offsets["to"] / 1000
        elif is_number(part.get("start")) and is_number(part.get("end")):
            start, end = part["start"], part["end"]
        else:
            return ()
        values = {key: part[key] for key in MEASURES[:4] if is_number(part.get(key))}
        found.append(TimedSegment(part["text"], start, end, **values))
    return tuple(found)


def _words(data: dict[str, Any]) -> tuple[TimedSegment, ...]:
    """Words with times, each with the measures of its segment; none where a segment has none."""
    found: list[TimedSegment] = []
    parts = data.get("segments")
    for part in parts if isinstance(parts, list) else []:
        words = part.get("words") if isinstance(part, dict) else None
        if not isinstance(words, list) or not words:
            return ()
        values = {key: part[key] for key in MEASURES[:4] if is_number(part.get(key))}
        for word in words:
            text = word.get("word", word.get("text")) if isinstance(word, dict) else None
            if not isinstance(text, str) or not (is_number(word.get("start")) and is_number(word.get("end"))):
                return ()
            found.append(TimedSegment(text, word["start"], word["end"], **values))
    return tuple(found)


def _whisper_text(data: Any) -> str | None:
    if not isinstance(data, dict):
        return None
    parts = data.get("transcription")
    if isinstance(parts, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        return "".join(part["text"] for part in parts)
    text = data.get("text")
    return text if isinstance(text, str) else None


def _json_lines(path: Path, report: ReportProblem) -> Iterator[ImportedHypothesis]:
    for where, row in json_rows(path, report):
        yield from _of_row(row, where, report)


def _csv(path: Path, report: ReportProblem) -> Iterator[ImportedHypothesis]:
    """A header with id or audio_filepath, text or pred_text, and measures where there are some."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for cells in reader:
                row: dict[str, Any] = {key: value for key, value in cells.items() if key and value not in (None, "")}
                # An empty text is one without words; an empty pred_text must not give way to the reference in text.
                row.setdefault("pred_text" if "pred_text" in cells else "text", "")
                where = f"{path}:{reader.line_num}"
                try:
                    row |= {key: float(row[key]) for key in MEASURES if key in row}
                except ValueError as error:
                    report(f"{where}: a measure is no number ({error})")
                    continue
                yield from _of_row(row, where, report)
        except csv.Error as error:  # such as a cell of more than 131,072 characters
            report(f"{path}:{reader.reader.line_num}: not CSV ({error})")


def _of_row(row: dict[str, Any], where: str, report: ReportProblem) -> Iterator[ImportedHypothesis]:
    problem = _row_problem(row)
    if problem:
        report(f"{where}: {problem}")
        return
    name = row["id"] if "id" in row else Path(row["audio_filepath"]).stem
    listed = row.get("nbest") or [{"text": row.get("pred_text", row.get("text"))}]
    hypotheses = [TextHypothesis(item["text"], item.get("score")) for item in listed]
    if hypotheses[0].score is not None:
        hypotheses.sort(key=lambda item: -(item.score or 0.0))
    values = {key: row[key] for key in MEASURES if is_number(row.get(key))}
    yield ImportedHypothesis(name, where, tuple(hypotheses), Transcription("", **values), _segments(row))


def _row_problem(row: dict[str, Any]) -> str | None:
    """Return the problem of a row, or None; `audio_filepath` and `pred_text` are NeMo's names."""
    if not isinstance(row.get("id", row.get("audio_filepath")), str):
        return "neither id nor audio_filepath"
    if "nbest" not in row:
        return None if isinstance(row.get("pred_text", row.get("text")), str) else "neither text nor nbest"
    listed = row["nbest"]
    if not isinstance(listed, list) or not listed:
        return "nbest is not a list of at least one"
    if not all(isinstance(item, dict) and isinstance(item.get("text"), str) for item in listed):
        return "an entry of nbest has no text"
    scores = [item.get("score") for item in listed]
    if all(score is None for score in scores):
        return None
    if not all(is_number(score) for score in scores):
        return "scores must be finite numbers, for all entries of nbest or for none"
    return None


def _plain(
    rows: Callable[[Path, ReportProblem], Iterator[TranscriptRow]],
) -> Callable[[Path, ReportProblem], Iterator[ImportedHypothesis]]:
    """A form that scoring reads as well, which has one hypothesis a name."""
    return lambda path, report: (
        ImportedHypothesis(row.name, row.where, (TextHypothesis(row.text),)) for row in rows(path, report)
    )
