"""What an evaluation found, in words. Every claim is held against its interval. Knows plain data only."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asr_kd.evaluation.distillation import comparisons_of
from asr_kd.evaluation.report.cast import Cast
from asr_kd.evaluation.report.loading import Report


@dataclass(frozen=True)
class Headline:
    """The finding, and a few sentences that say what it means."""

    title: str
    sentences: list[str]


def headline(report: Report, cast: Cast | None) -> Headline:
    """What the first comparison of the main set says; without one, what the student's errors are."""
    if cast is None:
        return Headline("Nothing was evaluated", ["No test set was there; the list below says why."])
    found = report.sets[cast.test_set]
    pairs = comparisons_of(found)
    if not pairs:
        return _without_pair(report, cast)
    difference, pair = pairs[0]["difference"], pairs[0]
    return Headline(
        _title(difference),
        [_errors(report, cast), _difference(difference, found), *_gap_sentences(pair)],
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


def _errors(report: Report, cast: Cast) -> str:
    found = report.sets[cast.test_set]
    sentence = f"On {cast.test_set}, {report.name(cast.student)} gets {_rate(found, cast.student)} of the words wrong"
    if cast.baseline is not None:
        sentence += f"; the same student without a teacher ({report.name(cast.baseline)}) {_rate(found, cast.baseline)}"
    if cast.teacher is not None:
        sentence += f"; the teacher ({report.name(cast.teacher)}) {_rate(found, cast.teacher)}"
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


def _without_pair(report: Report, cast: Cast) -> Headline:
    found = report.sets[cast.test_set]
    name, rate = report.name(cast.student), _rate(found, cast.student)
    sentences = [f"On {cast.test_set}: {found['utterances']} utterances, {found[cast.student]['words']} words."]
    if cast.teacher is not None:
        sentences.append(f"Its teacher, {report.name(cast.teacher)}, gets {_rate(found, cast.teacher)} wrong.")
    sentences.append(f"There is no gap to speak of: {found['gap_recovered_reason']}.") if cast.teacher else None
    return Headline(f"{name} gets {rate} of the words wrong", sentences)


def _rate(found: Mapping[str, Any], key: str) -> str:
    return f"{100 * found[key]['wer']:.2f} %"
