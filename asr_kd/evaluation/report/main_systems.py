"""The systems that a report shows first, and its headline: the main finding in words, stated with its interval."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asr_kd.evaluation.cells import points
from asr_kd.evaluation.report.document import Headline
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.system import ROLES


@dataclass(frozen=True)
class MainSystems:
    """The main test set, and the keys of the systems that the headline compares on it."""

    test_set: str
    student: str
    """The student under test; where there is none, the only system."""
    baseline: str | None = None
    teacher: str | None = None

    @property
    def keys(self) -> list[str]:
        """Teacher, baseline and student, as far as there are any."""
        return [key for key in (self.teacher, self.baseline, self.student) if key is not None]


def main_systems(report: Report) -> MainSystems | None:
    """The main systems of a report; None where no set was evaluated.

    Student, baseline and teacher are those of the main set's first comparison; without one, its first student and its
    teacher.
    """
    if not report.sets:
        return None
    name = main_set(report)
    pairs = report.sets[name]["comparisons"]
    if pairs:
        return MainSystems(name, pairs[0]["distilled"], pairs[0]["baseline"], pairs[0]["teacher"])
    keys = report.systems(name)
    teacher = next((key for key in keys if report.summary["models"][key]["role"] == "teacher"), None)
    students = [key for key in (*reversed(ROLES), *keys) if key in keys and key != teacher]
    if not students:
        return MainSystems(name, keys[0])
    return MainSystems(name, students[0], None, teacher)


def main_set(report: Report) -> str:
    """The first set that training did not use to select epochs; where there is none, the first."""
    dev_sets = report.summary["provenance"]["dev_sets"]
    return next((name for name in report.sets if name not in dev_sets), next(iter(report.sets)))


def order_of_sets(report: Report, main: MainSystems) -> list[str]:
    """The main set, then the others."""
    return [main.test_set, *(name for name in report.sets if name != main.test_set)]


def headline(report: Report, main: MainSystems | None) -> Headline:
    """The finding of the main set's first comparison; without a comparison, the student's error rate."""
    if main is None:
        return Headline("No set was evaluated", ["There was no test set. The notices below give the reasons."])
    found = report.sets[main.test_set]
    pairs = found["comparisons"]
    if not pairs:
        return _without_pair(report, main)
    difference, pair = pairs[0]["difference"], pairs[0]
    return Headline(_title(difference), [_rates(report, main), _difference(difference, found), _gap_sentence(pair)])


def _title(difference: Mapping[str, Any]) -> str:
    low, high, wer = difference["low"], difference["high"], 100 * difference["wer"]
    if low is None or low <= 0 <= high:
        return "Distillation made no significant difference on this test set"
    if wer < 0:
        return f"Distillation reduces the word error rate by {-wer:.1f} points"
    return f"Distillation increases the word error rate by {wer:.1f} points"


def _rates(report: Report, main: MainSystems) -> str:
    found = report.sets[main.test_set]
    sentence = f"On {main.test_set}, {report.name(main.student)} has a WER of {_rate(found, main.student)}"
    if main.baseline is not None:
        sentence += f", the same student without distillation ({report.name(main.baseline)}) "
        sentence += _rate(found, main.baseline)
    if main.teacher is not None:
        sentence += f", and the teacher ({report.name(main.teacher)}) {_rate(found, main.teacher)}"
    return f"{sentence}."


def _difference(difference: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None:
        return f"The difference is {points(difference['wer'])} points; there is too little data for an interval."
    spread = (
        f"The difference is {points(difference['wer'])} points, 95 % interval {points(low)} to {points(high)} "
        f"(paired bootstrap over {found['resampled_by']})"
    )
    if low <= 0 <= high:
        return f"{spread}: it is compatible with chance."
    return f"{spread}: its sign is significant on this set. Another training seed may still change it."


def _gap_sentence(pair: Mapping[str, Any]) -> str:
    if pair["gap_recovered"] is None:
        reason = re.sub(r"-(?=\d)", "−", pair["gap_recovered_reason"])
        return f"The share of the gap to the teacher that was recovered is undefined: {reason}."
    value, low, high = (100 * pair[f"gap_recovered{end}"] for end in ("", "_low", "_high"))
    sentence = (
        f"Distillation recovers {value:.0f} % of the gap between the student without distillation and the teacher, "
        f"95 % interval {low:.0f} to {high:.0f} %"
    ).replace("-", "−")
    return f"{sentence}: recovering nothing is not excluded." if low <= 0 else f"{sentence}."


def _without_pair(report: Report, main: MainSystems) -> Headline:
    found = report.sets[main.test_set]
    name, rate = report.name(main.student), _rate(found, main.student)
    sentences = [f"On {main.test_set}: {found['utterances']} utterances, {found[main.student]['words']} words."]
    if main.teacher is not None:
        sentences.append(f"Its teacher, {report.name(main.teacher)}, has {_rate(found, main.teacher)}.")
        sentences.append(f"No gap recovered is computed: {found['gap_recovered_reason']}.")
    return Headline(f"{name} has a word error rate of {rate}", sentences)


def _rate(found: Mapping[str, Any], key: str) -> str:
    return f"{100 * found[key]['wer']:.2f} %"
