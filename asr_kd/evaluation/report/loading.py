"""An evaluation as plain data, which `open_report` reads: results.json, rows of hypotheses, and views of utterances.

A view is an utterance with the outputs of all systems, aligned word by word.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.report.document import MainSystems, Point, SystemStyle, styles_of
from asr_kd.evaluation.system import ROLES, file_stem
from asr_kd.files import loads_json, read_json
from asr_kd.scoring.formats import TimedWord
from asr_kd.scoring.wer import align_words

FORMAT, FORMAT_VERSION = "asr-kd results", 2
RESULTS, HYPOTHESES = "results.json", "hypotheses"
_FOLDER = "report"
PARTS = (
    "test_sets", "absent_systems", "models", "seeds", "teachers", "curves", "provenance", "matrix", "robustness"
)  # fmt: skip
"""Keys of results.json beside its format and version."""
_REMEDY = "Run the evaluate stage (again)"

Summary = Mapping[str, Any]
Row = Mapping[str, Any]
"""One utterance of one system: id, reference, hypothesis (as scored) and errors; its speaker where known."""


LETTERS = {"equal": "=", "substitute": "s", "delete": "d", "insert": "i"}
"""How an edit is written in `SystemOutput.edits`."""

Kind = Literal["substitutions", "deletions", "insertions"]


@dataclass(frozen=True, slots=True)
class SystemOutput:
    """One system's output for an utterance."""

    text: str
    edits: str
    """A letter a column of the alignment with the reference: = right, s substituted, d deleted, i inserted."""

    @property
    def errors(self) -> int:
        return len(self.edits) - self.edits.count("=")


@dataclass(frozen=True, slots=True)
class View:
    """One utterance with the outputs of all systems."""

    test_set: str
    id: str
    speaker: str
    reference: str
    outputs: Mapping[str, SystemOutput]
    """By the systems' keys."""

    def errors(self, key: str | None) -> int:
        """Word errors of a system; 0 where it is not there."""
        found = self.outputs.get(key) if key is not None else None
        return found.errors if found is not None else 0


@dataclass(frozen=True)
class Report:
    """An evaluation's results and hypotheses."""

    summary: Summary
    rows: Mapping[str, Mapping[str, Sequence[Row]]] = field(default_factory=dict)
    """Test set → system's key → its utterances; empty where no hypotheses were kept."""
    words: Mapping[str, Mapping[str, Sequence[TimedWord]]] = field(default_factory=dict)
    """System's key → utterance → its words with times, before the normalizer, where files of hypotheses had them."""

    @property
    def sets(self) -> dict[str, Mapping[str, Any]]:
        return {name: found for name, found in self.summary["test_sets"].items() if "skipped" not in found}

    @property
    def skipped(self) -> dict[str, str]:
        """Test set → why it was not evaluated."""
        return {name: found["skipped"] for name, found in self.summary["test_sets"].items() if "skipped" in found}

    @cached_property
    def main(self) -> MainSystems:
        """What is shown first: the systems of the main set's first comparison, or its first student and its teacher.

        The main set is the first that training did not use to select epochs; where there is none, the first.
        """
        dev_sets = self.summary["provenance"]["dev_sets"]
        name = next((name for name in self.sets if name not in dev_sets), next(iter(self.sets), None))
        if name is None:
            return MainSystems()
        pairs = self.sets[name]["comparisons"]
        if pairs:
            return MainSystems(name, pairs[0]["distilled"], pairs[0]["baseline"], pairs[0]["teacher"])
        keys = self.systems(name)
        teacher = next((key for key in keys if self.summary["models"][key]["role"] == "teacher"), None)
        students = [key for key in (*reversed(ROLES), *keys) if key in keys and key != teacher]
        return MainSystems(name, students[0], None, teacher) if students else MainSystems(name, keys[0])

    @property
    def order(self) -> list[str]:
        """The main set, then the others."""
        return [self.main.test_set, *(name for name in self.sets if name != self.main.test_set)] if self.sets else []

    @cached_property
    def styles(self) -> dict[str, SystemStyle]:
        return styles_of(self.summary["models"])

    @cached_property
    def views(self) -> list[View]:
        """All utterances with the outputs of all systems, those with most errors of the student first."""
        return views(self.rows, self.main)

    def fold(self, test_set: str, title: str) -> str:
        """Title under which a set's tables are folded away; the main set's are not."""
        return "" if test_set == self.main.test_set else f"{title} {test_set}"

    def points(self, test_set: str, costs: Mapping[str, float | None] | None = None, note: str = "") -> list[Point]:
        """The systems of a set, or those that have `costs`, as points of a chart; the note is for a cost of None."""
        found = self.sets[test_set]
        return [
            Point(self.styles[key], found[key]["wer"], found[key]["wer_low"], found[key]["wer_high"],
                  (costs or {}).get(key), note)
            for key in self.systems(test_set)
            if costs is None or key in costs
        ]  # fmt: skip

    def systems(self, test_set: str) -> list[str]:
        return systems_of(self.sets[test_set])

    def name(self, key: str) -> str:
        return str(self.summary["models"][key]["name"])


def systems_of(found: Mapping[str, Any]) -> list[str]:
    """Keys of the systems in a set: the entries that hold a WER of their own words."""
    return [key for key, value in found.items() if isinstance(value, Mapping) and "wer" in value and "words" in value]


def open_report(path: Path) -> Report:
    """An evaluation on disk.

    Args:
        path: a run's work_dir, its report folder, or a results.json (also alone: then there are no hypotheses).

    Raises:
        EvaluationError: there is none, or it is damaged or of another version.
    """
    folder = path.parent if path.name == RESULTS else path
    if not (folder / RESULTS).is_file() and (folder / _FOLDER / RESULTS).is_file():
        folder = folder / _FOLDER
    summary = read_results(folder)
    rows: dict[str, dict[str, list[Row]]] = {}
    for name, found in summary["test_sets"].items():
        if "skipped" not in found:
            files = {key: folder / HYPOTHESES / name / f"{file_stem(key)}.jsonl" for key in systems_of(found)}
            stated = found.get("hypotheses_sha256", {})
            rows[name] = {key: _read_rows(file, stated.get(key)) for key, file in files.items() if file.is_file()}
    return Report(summary, rows)


def read_results(folder: Path) -> dict[str, Any]:
    """Read a report's results.json.

    Raises:
        EvaluationError: missing, not JSON, or not written by this version of the format.
    """
    path = folder / RESULTS
    try:
        summary = read_json(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"cannot be read ({error})", where=path, expected="an evaluation's results", remedy=_REMEDY
        ) from error
    found = (summary.get("format"), summary.get("version"))
    if found != (FORMAT, FORMAT_VERSION):
        raise EvaluationError(f"is {found}", where=path, expected=f"{(FORMAT, FORMAT_VERSION)}", remedy=_REMEDY)
    missing = [key for key in PARTS if not isinstance(summary.get(key), dict)]
    if missing:
        raise EvaluationError(f"lacks {', '.join(missing)}", where=path, expected="whole results", remedy=_REMEDY)
    return summary


def references_sha256(rows: Iterable[Row]) -> str:
    """Hex SHA-256 of a set's references with their ids, in any order: equal exactly when they are the same."""
    digest = hashlib.sha256()
    for utterance_id, reference in sorted((row["id"], row["reference"]) for row in rows):
        digest.update(json.dumps([utterance_id, reference]).encode() + b"\n")
    return digest.hexdigest()


def rows_text(rows: Iterable[Row]) -> str:
    """Rows as their file holds them: JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _read_rows(path: Path, sha256: str | None) -> list[Row]:
    """Rows of a file of hypotheses."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"has another SHA-256 than {RESULTS} states: it is damaged, or was changed by hand")
        rows = [loads_json(line) for line in content.decode().split("\n") if line]
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"cannot be read ({error})", where=path, expected="rows of JSON", remedy=_REMEDY
        ) from error
    for number, row in enumerate(rows, start=1):
        lacking = isinstance(row, dict) and {"id", "reference", "hypothesis", "errors"} - row.keys()
        if not isinstance(row, dict) or lacking:
            raise EvaluationError(
                "is no hypothesis", where=f"{path}:{number}", expected="id, reference, hypothesis, errors"
            )
    return rows


def views(rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], main: MainSystems) -> list[View]:
    """All utterances of `Report.rows`, those with most errors of the student first."""
    found = [view for name, by_system in rows.items() for view in _views_of(name, by_system)]
    return sorted(found, key=lambda view: (*_worst_first(view, main), view.test_set, view.id))


def _worst_first(view: View, main: MainSystems) -> tuple[int, int, int]:
    """Sort key: many errors of the student, then few of the teacher, then short references."""
    return -view.errors(main.student), view.errors(main.teacher), len(view.reference)


def choose(found: Sequence[View], main: MainSystems, count: int) -> list[View]:
    """Select utterances to show with audio, from four groups in turn.

    The groups are those with most errors of the student, those that only the student got wrong, those that only the
    teacher got wrong, and the longest that both got right.
    """
    student, teacher = main.student, main.teacher
    only_student = [view for view in found if view.errors(student) and not view.errors(teacher)]
    only_teacher = [view for view in found if view.errors(teacher) and not view.errors(student)]
    right = [view for view in found if not view.errors(student) and not view.errors(teacher)]
    groups = [
        [view for view in found if view.errors(student)],
        only_student,
        sorted(only_teacher, key=lambda view: -view.errors(teacher)),
        sorted(right, key=lambda view: -len(view.reference)),
    ]
    chosen: dict[tuple[str, str], View] = {}
    for round_ in zip_longest(*groups):
        for view in round_:
            if view is not None and len(chosen) < count:
                chosen.setdefault((view.test_set, view.id), view)
    return list(chosen.values())


def confusions(found: Iterable[View], key: str) -> dict[Kind, Counter[tuple[str, str]]]:
    """Count how often a system confused words: (reference, hypothesis), one side empty where there is none."""
    counts: dict[Kind, Counter[tuple[str, str]]] = {
        "substitutions": Counter(),
        "deletions": Counter(),
        "insertions": Counter(),
    }
    kinds: dict[str, Kind] = {"s": "substitutions", "d": "deletions", "i": "insertions"}
    for view in found:
        if key in view.outputs:
            for edit, reference, hypothesis in columns(view.reference, view.outputs[key]):
                if edit != "=":
                    counts[kinds[edit]][reference, hypothesis] += 1
    return counts


def columns(reference: str, output: SystemOutput) -> Iterator[tuple[str, str, str]]:
    """(edit, word of the reference, word of the hypothesis) from left to right; the missing side is empty."""
    words, written = iter(reference.split(" ")), iter(output.text.split(" "))
    for edit in output.edits:
        yield edit, "" if edit == "i" else next(words), "" if edit == "d" else next(written)


def _views_of(name: str, by_system: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[View]:
    outputs: dict[str, dict[str, SystemOutput]] = {}
    first: dict[str, tuple[str, str]] = {}
    for key, rows in by_system.items():
        texts = [row["hypothesis"] for row in rows]
        alignments = align_words([row["reference"] for row in rows], texts)
        for row, text, alignment in zip(rows, texts, alignments, strict=True):
            letters = "".join(LETTERS[edit.kind] * edit.length for edit in alignment)
            outputs.setdefault(row["id"], {})[key] = SystemOutput(text, letters)
            first.setdefault(row["id"], (row.get("speaker", ""), row["reference"]))
    for utterance_id, (speaker, reference) in first.items():
        yield View(name, utterance_id, speaker, reference, outputs[utterance_id])
