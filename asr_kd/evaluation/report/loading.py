"""An evaluation as plain data: results.json and the rows of its hypotheses, which `open_report` reads."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.report.document import MainSystems, Point, SystemStyle, styles_of
from asr_kd.evaluation.report.utterance_views import View, views
from asr_kd.evaluation.system import ROLES, file_stem
from asr_kd.files import loads_json, read_json
from asr_kd.scoring.formats import TimedWord

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
