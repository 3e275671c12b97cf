"""Who plays which part in a report: the student under test, the same without a teacher, the teacher, and on which set.

Knows results as plain data only.
"""

from dataclasses import dataclass

from asr_kd.evaluation.distillation import comparisons_of
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.systems import ROLES


@dataclass(frozen=True)
class Cast:
    """Keys of the systems that the page speaks of first."""

    test_set: str
    student: str
    """The student under test; where there is none, the only system."""
    baseline: str | None = None
    teacher: str | None = None

    @property
    def keys(self) -> list[str]:
        """Teacher, baseline, student: the parts that are filled."""
        return [key for key in (self.teacher, self.baseline, self.student) if key is not None]


def cast_of(report: Report) -> Cast | None:
    """The parts of a report; None where no set was evaluated.

    The set is the first that training did not look at. Student, baseline and teacher are those of its first
    comparison; without one, the first student and the teacher there.
    """
    if not report.sets:
        return None
    name = main_set(report)
    pairs = comparisons_of(report.sets[name])
    if pairs:
        return Cast(name, pairs[0]["distilled"], pairs[0]["baseline"], pairs[0]["teacher"])
    keys = report.systems(name)
    teacher = next((key for key in keys if report.summary["models"][key]["role"] == "teacher"), None)
    students = [key for key in (*reversed(ROLES), *keys) if key in keys and key != teacher]
    if not students:
        return Cast(name, keys[0])
    return Cast(name, students[0], None, teacher)


def main_set(report: Report) -> str:
    """The set that the headline speaks of."""
    looked_at = report.summary["provenance"].get("dev_sets")
    unseen = [name for name in report.sets if not (name in looked_at if looked_at else _called_dev(name))]
    return next(iter(unseen or report.sets))


def order_of_sets(report: Report, cast: Cast) -> list[str]:
    """The set that the page speaks of first, then the others."""
    return [cast.test_set, *(name for name in report.sets if name != cast.test_set)]


def _called_dev(name: str) -> bool:
    """Reports of earlier releases do not say what training looked at."""
    return name == "dev" or name.startswith("dev-")
