"""The systems that a report shows first, and its headline: findings in words, each with its interval."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asr_kd.evaluation.distillation import comparisons_of
from asr_kd.evaluation.report.loading import Report
from asr_kd.evaluation.systems import ROLES


@dataclass(frozen=True)
class MainSystems:
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


def main_systems(report: Report) -> MainSystems | None:
    """The parts of a report; None where no set was evaluated.

    The set is the first that training did not look at. Student, baseline and teacher are those of its first
    comparison; without one, the first student and the teacher there.
    """
    if not report.sets:
        return None
    name = main_set(report)
    pairs = comparisons_of(report.sets[name])
    if pairs:
        return MainSystems(name, pairs[0]["distilled"], pairs[0]["baseline"], pairs[0]["teacher"])
    keys = report.systems(name)
    teacher = next((key for key in keys if report.summary["models"][key]["role"] == "teacher"), None)
    students = [key for key in (*reversed(ROLES), *keys) if key in keys and key != teacher]
    if not students:
        return MainSystems(name, keys[0])
    return MainSystems(name, students[0], None, teacher)


def main_set(report: Report) -> str:
    """The set that the headline speaks of."""
    looked_at = report.summary["provenance"].get("dev_sets")
    unseen = [name for name in report.sets if not (name in looked_at if looked_at else _called_dev(name))]
    return next(iter(unseen or report.sets))


def order_of_sets(report: Report, main: MainSystems) -> list[str]:
    """The set that the page speaks of first, then the others."""
    return [main.test_set, *(name for name in report.sets if name != main.test_set)]


def _called_dev(name: str) -> bool:
    """Reports of earlier releases do not say what training looked at."""
    return name == "dev" or name.startswith("dev-")


@dataclass(frozen=True)
class Headline:
    """The finding, and a few sentences that say what it means."""

    title: str
    sentences: list[str]


def headline(report: Report, main: MainSystems | None) -> Headline:
    """What the first comparison of the main set says; without one, what the student's errors are."""
    if main is None:
        return Headline("Nothing was evaluated", ["No test set was there; the list below says why."])
    found = report.sets[main.test_set]
    pairs = comparisons_of(found)
    if not pairs:
        return _without_pair(report, main)
    difference, pair = pairs[0]["difference"], pairs[0]
    return Headline(
        _title(difference),
        [_errors(report, main), _difference(difference, found), *_gap_sentences(pair)],
    )


def points(fraction: float) -> str:
    """A difference of rates in percentage points, with a real minus."""
    return f"{100 * fraction:+.2f}".replace("-", "−")


def _title(difference: Mapping[str, Any]) -> str:
    low, high, wer = difference["low"], difference["high"], 100 * difference["wer"]
    if low is None or low <= 0 <= high:
        return "Distillation made no difference that this test can see"
    if wer < 0:
        return f"Distillation spares the student {-wer:.1f} errors in 100 words"
    return f"Distillation costs the student {wer:.1f} more errors in 100 words"


def _errors(report: Report, main: MainSystems) -> str:
    found = report.sets[main.test_set]
    sentence = f"On {main.test_set}, {report.name(main.student)} gets {_rate(found, main.student)} of the words wrong"
    if main.baseline is not None:
        sentence += f"; the same student without a teacher ({report.name(main.baseline)}) {_rate(found, main.baseline)}"
    if main.teacher is not None:
        sentence += f"; the teacher ({report.name(main.teacher)}) {_rate(found, main.teacher)}"
    return f"{sentence}."


def _difference(difference: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    low, high = difference["low"], difference["high"]
    if low is None:
        return f"The difference is {points(difference['wer'])} points; there is too little to draw an interval from."
    spread = (
        f"The difference is {points(difference['wer'])} points, 95 % interval {points(low)} to {points(high)} "
        f"(the same {found['resampled_by']} drawn again for both)"
    )
    if low <= 0 <= high:
        return f"{spread}: it may as well be chance, in either direction."
    return f"{spread}: the sign is not chance on this set. Another training seed may still change it."


def _gap_sentences(pair: Mapping[str, Any]) -> list[str]:
    if pair["gap_recovered"] is None:
        reason = re.sub(r"-(?=\d)", "−", pair["gap_recovered_reason"])
        return [f"What share of the gap to the teacher was recovered cannot be said: {reason}."]
    value, low, high = (100 * pair[f"gap_recovered{end}"] for end in ("", "_low", "_high"))
    sentence = (
        f"Of what separates the student without a teacher from its teacher, distillation recovers {value:.0f} %, "
        f"95 % interval {low:.0f} to {high:.0f} %"
    ).replace("-", "−")
    if low <= 0:
        return [f"{sentence}: nothing at all is among what this test cannot exclude."]
    return [f"{sentence}."]


def _without_pair(report: Report, main: MainSystems) -> Headline:
    found = report.sets[main.test_set]
    name, rate = report.name(main.student), _rate(found, main.student)
    sentences = [f"On {main.test_set}: {found['utterances']} utterances, {found[main.student]['words']} words."]
    if main.teacher is not None:
        sentences.append(f"Its teacher, {report.name(main.teacher)}, gets {_rate(found, main.teacher)} wrong.")
    sentences.append(f"There is no gap to speak of: {found['gap_recovered_reason']}.") if main.teacher else None
    return Headline(f"{name} gets {rate} of the words wrong", sentences)


def _rate(found: Mapping[str, Any], key: str) -> str:
    return f"{100 * found[key]['wer']:.2f} %"
