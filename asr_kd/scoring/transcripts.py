"""A file of references or hypotheses, matched by id: JSON Lines, Kaldi's `text`, sclite's trn and ctm, in and out.

JSON Lines are rows of {"id", "text"}, of a manifest, of NeMo's, or of this project's reports; which of a row's texts is
meant depends on what the file stands for.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from asr_kd.errors import EvaluationError, examples
from asr_kd.files import write_text
from asr_kd.scoring.formats import (
    ReportProblem,
    TimedWord,
    TranscriptRow,
    ctm_lines,
    ctm_rows,
    is_number,
    json_rows,
    kaldi_rows,
    numbered_lines,
    text_line,
    trn_rows,
)

TextForm = Literal["jsonl", "kaldi", "trn", "ctm"]
Side = Literal["reference", "hypothesis"]

_BY_SUFFIX: dict[str, TextForm] = {".jsonl": "jsonl", ".json": "jsonl", ".trn": "trn", ".ctm": "ctm", ".txt": "kaldi"}
_TEXTS: dict[Side, tuple[str, ...]] = {
    "reference": ("raw_reference", "reference", "text"),
    "hypothesis": ("raw_hypothesis", "hypothesis", "pred_text", "text"),
}
"""A row's keys, the first that is there counts: reports keep the raw text beside the normalized one."""


@dataclass(frozen=True)
class Transcripts:
    """Contents of a file, by utterance id, in its order."""

    path: Path
    form: TextForm
    texts: dict[str, str]
    speakers: dict[str, str]
    """Of the utterances whose row names one."""
    seconds: dict[str, float]
    """Durations, where rows have them."""
    words: dict[str, tuple[TimedWord, ...]]
    """Words with times, where rows have them."""


def text_form_of(path: Path) -> TextForm:
    """The form of a file by its name.

    Raises:
        EvaluationError: the name does not show it.
    """
    if path.name == "text":
        return "kaldi"
    if path.suffix in _BY_SUFFIX:
        return _BY_SUFFIX[path.suffix]
    if not path.exists():
        raise EvaluationError("does not exist", where=path, expected="a file of transcripts")
    raise EvaluationError(
        "the form of these transcripts does not follow from the file's name",
        where=path,
        expected=f"{', '.join(_BY_SUFFIX)}, or Kaldi's `text`",
        remedy="Rename it, or make a manifest of it: asr-kd manifest convert IN OUT.jsonl --to asr-kd",
    )


def read_transcripts(path: Path, side: Side, form: TextForm | None = None) -> Transcripts:
    """Read a file of transcripts, the texts of one side; its form is inferred from its name where it is not given.

    Raises:
        EvaluationError: unreadable, empty, rows that are not of its form, or an id twice (both rows).
    """
    form = form or text_form_of(path)
    problems: list[str] = []
    kept: dict[str, tuple[TranscriptRow, dict[str, Any]]] = {}
    try:
        for row, facts in _rows(path, side, form, problems.append):
            if row.name in kept:
                problems.append(f"{row.name!r} stands in {kept[row.name][0].where} and {row.where}")
            kept.setdefault(row.name, (row, facts))
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"cannot be read ({error})", where=path, expected="text in UTF-8") from error
    if problems:
        raise EvaluationError(
            f"{len(problems)} wrong rows: {examples(problems, '; ')}",
            where=path,
            expected=f"transcripts in the form {form!r}, each id once",
        )
    if not kept:
        raise EvaluationError("holds no transcript", where=path, expected=f"at least one, in the form {form!r}")
    return Transcripts(
        path,
        form,
        {name: row.text for name, (row, _) in kept.items()},
        {name: facts["speaker"] for name, (_, facts) in kept.items() if isinstance(facts.get("speaker"), str)},
        {name: float(facts["duration"]) for name, (_, facts) in kept.items() if is_number(facts.get("duration"))},
        {name: row.words for name, (row, _) in kept.items() if row.words},
    )


def hypotheses_for(transcripts: Transcripts, ids: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The texts of these utterances, and which of them the file leaves out as empty.

    A ctm file cannot name an utterance without a word, so one that is not in it counts as empty: all its words are
    deletions. In the other forms that is an error, as it is when a file has none of the ids.

    Raises:
        EvaluationError: utterances are not there.
    """
    missing = [utterance_id for utterance_id in ids if utterance_id not in transcripts.texts]
    if missing and (transcripts.form != "ctm" or len(missing) == len(ids)):
        raise EvaluationError(
            f"{len(missing)} of {len(ids)} utterances are not in it ({examples(missing)})",
            where=transcripts.path,
            expected=f"their ids; it has {examples(list(transcripts.texts))}",
            remedy="Score hypotheses of exactly this test set; an empty hypothesis still needs its id",
        )
    return {utterance_id: transcripts.texts.get(utterance_id, "") for utterance_id in ids}, missing


def read_speakers(path: Path) -> dict[str, str]:
    """Kaldi's utt2spk: `id speaker` a line.

    Raises:
        EvaluationError: unreadable, or a line of another form.
    """
    try:
        rows = [(where, line.split()) for where, line in numbered_lines(path)]
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"cannot be read ({error})", where=path, expected="Kaldi's utt2spk") from error
    wrong = next((where for where, fields in rows if len(fields) != 2), None)
    if wrong:
        raise EvaluationError("is not an id and a speaker", where=wrong, expected="Kaldi's utt2spk")
    return {fields[0]: fields[1] for _, fields in rows}


def write_transcripts(
    path: Path, form: TextForm, texts: Mapping[str, str], words: Mapping[str, Sequence[TimedWord]] | None = None
) -> None:
    """Write transcripts in a form that other tools read.

    Args:
        words: utterance id → words with times, which `ctm` writes instead of `texts`, and `jsonl` beside them.

    Raises:
        EvaluationError: an id or text that the form cannot represent, or `ctm` of texts without times.
        AsrKdError: the file cannot be written.
    """
    timed = words or {}
    untimed = [name for name, text in texts.items() if text and name not in timed]
    if form == "ctm" and untimed:
        raise EvaluationError(
            f"{len(untimed)} of {len(texts)} texts have no times ({examples(untimed)})",
            where=path,
            expected="words with their times",
            remedy="Write trn, which needs none",
        )
    lines = []
    for name, text in texts.items():
        row = {"id": name, "text": text}
        with_times = {"words": [word._asdict() for word in timed[name]]} if timed.get(name) else {}
        if form == "jsonl":
            lines.append(json.dumps({**row, **with_times}, ensure_ascii=False) + "\n")
        else:
            lines.append(ctm_lines(name, timed.get(name, ())) if form == "ctm" else text_line(form, name, text))
    write_text(path, "".join(lines))


def _rows(
    path: Path, side: Side, form: TextForm, report: ReportProblem
) -> Iterator[tuple[TranscriptRow, dict[str, Any]]]:
    if form == "jsonl":
        return _json_rows(path, side, report)
    plain = {"kaldi": kaldi_rows, "trn": trn_rows, "ctm": ctm_rows}[form]
    return ((row, {}) for row in plain(path, report))


def _json_rows(path: Path, side: Side, report: ReportProblem) -> Iterator[tuple[TranscriptRow, dict[str, Any]]]:
    for where, facts in json_rows(path, report):
        name, nbest = facts.get("id", facts.get("audio_filepath")), facts.get("nbest")
        text: Any = next((facts[key] for key in _TEXTS[side] if key in facts), None)
        if side == "hypothesis" and isinstance(nbest, list) and nbest and isinstance(nbest[0], dict):
            text = nbest[0].get("text")  # the best stands first
        listed = [] if facts.get("words") is None else facts["words"]
        words = [_word(item) for item in listed] if isinstance(listed, list) else [None]
        timed = tuple(word for word in words if word is not None)
        if not isinstance(name, str):
            report(f"{where}: neither id nor audio_filepath")
        elif not isinstance(text, str):
            report(f"{where}: no text under {' or '.join(_TEXTS[side])}")
        elif len(timed) < len(words):
            report(f"{where}: words are not a list of word, start and duration (or end), in seconds")
        else:
            yield TranscriptRow(name if "id" in facts else Path(name).stem, where, text, timed), facts


def _word(item: Any) -> TimedWord | None:
    """A word under the names that are in use: word or text, start, end or duration, each also with `_seconds`."""
    if not isinstance(item, dict):
        return None
    word: Any = item.get("word", item.get("text"))
    times: list[Any] = [item.get(name, item.get(f"{name}_seconds")) for name in ("start", "end", "duration")]
    start, end, duration = times
    if duration is None and is_number(end) and is_number(start):
        duration = end - start
    numbers = [start, duration, item.get("confidence", 0)]
    if not isinstance(word, str) or not all(number is None or is_number(number) for number in numbers):
        return None
    return None if start is None or duration is None else TimedWord(word, start, duration, item.get("confidence"))
