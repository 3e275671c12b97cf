"""Every utterance with the outputs of all systems, aligned word by word, those with most errors first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from asr_kd.evaluation.report.document import MainSystems
from asr_kd.scoring.alignment import align_words

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


def views(rows: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], main: MainSystems) -> list[View]:
    """All utterances of `loading.Report.rows`, those with most errors of the student first."""
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
