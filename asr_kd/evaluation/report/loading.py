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
from asr_kd.evaluation.report.document import Point, SystemStyle, styles_of
from asr_kd.evaluation.system import ROLES, file_stem
from asr_kd.files import loads_json, read_json
from asr_kd.scoring.formats import TimedWord
from asr_kd.scoring.wer import align_words

FORMAT, FORMAT_VERSION = "asr-kd results", 2
RESULTS, HYPOTHESES = "results.json", "hypotheses"
PARTS = (
    "test_sets", "absent_systems", "models", "seeds", "teachers", "curves", "provenance", "matrix", "robustness"
)  # fmt: skip
"""Keys of results.json beside its format and version."""
_REMEDY = "Run the evaluate stage (again)"

Summary = Mapping[str, Any]
Row = Mapping[str, Any]
"""One utterance of one system: id, reference, hypothesis (as scored) and errors; its speaker where known."""

_LETTERS = {"equal": "=", "substitute": "s", "delete": "d", "insert": "i"}

Kind = Literal["substitutions", "deletions", "insertions"]


@dataclass(frozen=True)
class MainSystems:
    """The main test set, and the keys of the systems that the headline compares on it; empty without a test set."""

    test_set: str = ""
    student: str = ""
    """The student under test; where there is none, the only system."""
    baseline: str | None = None
    teacher: str | None = None

    @property
    def keys(self) -> list[str]:
        """Teacher, baseline and student, as far as there are any."""
        return [key for key in (self.teacher, self.baseline, self.student) if key]


@dataclass(frozen=True, slots=True)
class SystemOutput:
    """One system's output for an utterance."""

    text: str
    edits: str
    """A letter a column of the alignment with the reference: = right, s substituted, d deleted, i inserted."""


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
        edits = self.outputs[key].edits if key is not None and key in self.outputs else ""
        return len(edits) - edits.count("=")


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
        """The test sets that were evaluated."""
        return {name: found for name, found in self.summary["test_sets"].items() if "skipped" not in found}

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
        return sorted(self.sets, key=lambda name: name != self.main.test_set)

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

    def points(self, test_set: str, xs: Mapping[str, float | None] | None = None) -> list[Point]:
        """The systems of a set, or those among the keys of `xs`, as points of a chart."""
        found = self.sets[test_set]
        keys = [key for key in self.systems(test_set) if xs is None or key in xs]
        errors = {key: found[key] for key in keys}
        return [
            Point(self.styles[key], row["wer"], row["wer_low"], row["wer_high"], (xs or {}).get(key))
            for key, row in errors.items()
        ]

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
    if not (folder / RESULTS).is_file() and (folder / "report" / RESULTS).is_file():
        folder = folder / "report"
    if folder.is_dir() and not (folder / RESULTS).exists():
        expected = f"a run's folder with report/{RESULTS}, or {RESULTS} itself"
        raise EvaluationError("has no report", where=path, expected=expected, remedy=_REMEDY)
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
        if not isinstance(row, dict) or {"id", "reference", "hypothesis", "errors"} - row.keys():
            raise EvaluationError(
                "is no hypothesis", where=f"{path}:{number}", expected="id, reference, hypothesis, errors"
            )
    return rows


def views(rows: Mapping[str, Mapping[str, Sequence[Row]]], main: MainSystems) -> list[View]:
    """All utterances of `Report.rows`: many errors of the student first, then few of the teacher, then short ones."""
    found = []
    for name, by_system in rows.items():
        outputs: dict[str, dict[str, SystemOutput]] = {}
        first: dict[str, Row] = {}
        for key, own in by_system.items():
            alignments = align_words([row["reference"] for row in own], [row["hypothesis"] for row in own])
            for row, alignment in zip(own, alignments, strict=True):
                letters = "".join(_LETTERS[edit.kind] * edit.length for edit in alignment)
                outputs.setdefault(row["id"], {})[key] = SystemOutput(row["hypothesis"], letters)
                first.setdefault(row["id"], row)
        found += [View(name, id_, row.get("speaker", ""), row["reference"], outputs[id_]) for id_, row in first.items()]

    def order(view: View) -> tuple[Any, ...]:
        errors = -view.errors(main.student), view.errors(main.teacher)
        return *errors, len(view.reference), view.test_set, view.id

    return sorted(found, key=order)


def choose(found: Sequence[View], main: MainSystems, count: int) -> list[View]:
    """Select utterances to show with audio, from four groups in turn.

    The groups are those with most errors of the student, those that only the student got wrong, those that only the
    teacher got wrong, and the longest that both got right.
    """
    student, teacher = main.student, main.teacher
    wrong = [view for view in found if view.errors(student)]
    no_errors = [view for view in found if not view.errors(student)]
    groups = [
        wrong,
        [view for view in wrong if not view.errors(teacher)],
        sorted((view for view in no_errors if view.errors(teacher)), key=lambda view: -view.errors(teacher)),
        sorted((view for view in no_errors if not view.errors(teacher)), key=lambda view: -len(view.reference)),
    ]
    in_turn = [view for round_ in zip_longest(*groups) for view in round_ if view is not None]
    return list({(view.test_set, view.id): view for view in in_turn}.values())[:count]


def confusions(found: Iterable[View], key: str) -> dict[Kind, Counter[tuple[str, str]]]:
    """Count how often a system confused words: (reference, hypothesis), one side empty where there is none."""
    counts: dict[Kind, Counter[tuple[str, str]]] = {
        "substitutions": Counter(),
        "deletions": Counter(),
        "insertions": Counter(),
    }
    by_letter = {"s": counts["substitutions"], "d": counts["deletions"], "i": counts["insertions"]}
    for view in found:
        if key in view.outputs:
            for edit, reference, hypothesis in columns(view.reference, view.outputs[key]):
                if edit != "=":
                    by_letter[edit][reference, hypothesis] += 1
    return counts


def columns(reference: str, output: SystemOutput) -> Iterator[tuple[str, str, str]]:
    """(edit, word of the reference, word of the hypothesis) from left to right; the missing side is empty."""
    words, written = iter(reference.split(" ")), iter(output.text.split(" "))
    for edit in output.edits:
        yield edit, "" if edit == "i" else next(words), "" if edit == "d" else next(written)
