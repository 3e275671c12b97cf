"""Compare systems: distilled and baseline students with their teacher, every pair, and several training runs (seeds).

A single training run is weak evidence for a method: another seed can change WER by as much as the method does. Several
runs of one system therefore form one row with mean, spread and an interval that covers both.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.system import ROLES, AnySystem
from asr_kd.scoring.paired import matched_pairs, word_agreement
from asr_kd.scoring.significance import (
    DEFAULT,
    GapRecovered,
    Interval,
    Resampling,
    bootstrap_difference,
    bootstrap_runs,
    gap_recovered,
)
from asr_kd.scoring.wer import Alignment, Score


@dataclass(frozen=True)
class Comparison:
    """One pair of students and their teacher, by the names of the systems."""

    distilled: str
    """The distilled student."""
    baseline: str
    """The same student without: same model, training and data."""
    teacher: str | None = None
    """Without one among the systems there is a difference, but no gap to recover."""

    @property
    def students(self) -> tuple[str, str]:
        return self.distilled, self.baseline

    @property
    def names(self) -> tuple[str, ...]:
        return self.students if self.teacher is None else (*self.students, self.teacher)


DEFAULT_PAIR = Comparison("student_kd", "student_hard", "teacher")
"""By keys: the roles that form a pair by default."""


def resolve_comparisons(systems: Sequence[AnySystem], stated: Sequence[Comparison]) -> list[Comparison]:
    """The pairs to compare, by the systems' keys: that of the roles `student_hard` and `student_kd`, then the stated.

    Raises:
        EvaluationError: a pair names a system that is not there or one system twice, or is stated twice.
    """
    keys = {system.name: system.key for system in systems}
    pairs: dict[tuple[str, str], Comparison] = {}
    for stated_pair in stated:
        what = f"the comparison of {stated_pair.distilled!r} with {stated_pair.baseline!r}"
        _check_known(stated_pair, keys, f"{what} needs", ", which is not evaluated")
        pair = Comparison(*(keys[name] for name in stated_pair.names))
        if len(set(pair.names)) < len(pair.names):
            raise EvaluationError(
                f"{what} and teacher {stated_pair.teacher!r} names one system twice",
                expected="a student with distillation, one without, and a teacher",
            )
        if pair.students in pairs:
            raise EvaluationError(f"{what} is stated twice", expected="each pair once")
        pairs[pair.students] = pair
    present, default = set(keys.values()), DEFAULT_PAIR
    if {*default.students} <= present and default.students not in pairs:
        return [*without_absent([default], {"teacher"} - present), *pairs.values()]
    return list(pairs.values())


def _check_known(pair: Comparison, known: Collection[str], what: str, why: str = "") -> None:
    unknown = [name for name in pair.names if name not in known]
    if unknown:
        raise EvaluationError(f"{what} {unknown[0]!r}{why}", expected=f"one of {', '.join(known)}")


def without_absent(stated: Sequence[Comparison], absent: Collection[str]) -> list[Comparison]:
    """The pairs of which both students are there; one whose teacher is not keeps its difference."""
    left = [pair for pair in stated if not set(pair.students) & set(absent)]
    return [replace(pair, teacher=None) if pair.teacher in absent else pair for pair in left]


def compare(
    pairs: Sequence[Comparison],
    scores: Mapping[str, Score],
    groups: Sequence[str] | None,
    resampling: Resampling,
) -> list[dict[str, Any]]:
    """Difference (WER with distillation minus WER without) and gap recovered of every pair, as plain data.

    All are on the same resamples, of speakers where there are `groups`. The scores are of the same utterances under one
    normalizer.
    """
    found = []
    for pair in pairs:
        distilled, baseline = error_counts(scores[pair.distilled]), error_counts(scores[pair.baseline])
        words = word_counts(scores[pair.baseline])
        gap = undefined_gap("its teacher was not evaluated")
        if pair.teacher is not None:
            teacher = error_counts(scores[pair.teacher])
            recovered = gap_recovered(baseline, distilled, teacher, words, groups=groups, resampling=resampling)
            gap = {**_recovered(recovered), "gap": {"wer": recovered.gap, **ends(recovered.gap_interval)}}
        difference = bootstrap_difference(distilled, baseline, words, groups=groups, resampling=resampling)
        found.append({**asdict(pair), **gap, "difference": {"wer": difference.value, **ends(difference.interval)}})
    return found


def default_gap(compared: Sequence[Mapping[str, Any]], keys: Collection[str]) -> dict[str, Any]:
    """The gap recovered by student_kd over student_hard, from the results of `compare`, or why there is none."""
    own = next((pair for pair in compared if (pair["distilled"], pair["baseline"]) == DEFAULT_PAIR.students), None)
    if own is not None and own["teacher"] is not None:
        return {name: value for name, value in own.items() if name.startswith("gap")}
    reason = f"not among the systems: {', '.join(role for role in ROLES if role not in keys)}"
    if own is None and compared:
        reason += f"; comparisons: {', '.join(pair['distilled'] for pair in compared)}"
    return undefined_gap(reason)


def undefined_gap(reason: str) -> dict[str, Any]:
    """What stands for a gap that is not computed."""
    return _recovered(GapRecovered(None, None, 0.0, None, reason))


def _recovered(gap: GapRecovered) -> dict[str, Any]:
    interval = ends(gap.interval, "gap_recovered_low", "gap_recovered_high")
    return {"gap_recovered": gap.value, **interval, "gap_recovered_reason": gap.reason}


def ends(interval: Interval | None, low: str = "low", high: str = "high") -> dict[str, float | None]:
    """Both ends of an interval under these names."""
    return dict(zip((low, high), interval or (None, None), strict=True))


def every_pair(
    scores: Mapping[str, Score], groups: Sequence[str] | None, resampling: Resampling
) -> list[dict[str, Any]]:
    """Every two systems tested against each other, the later one first, a student minus its teacher: plain data.

    Args:
        scores: by systems' keys, of the same utterances under one normalizer.
        groups: the speaker of each utterance; None where they cannot be resampled.
    """
    found = []
    for second, first in combinations(scores, 2):
        one, other = scores[first], scores[second]
        errors, words = (error_counts(one), error_counts(other)), word_counts(one)
        by_speaker = None
        if groups is not None:
            by_speaker = bootstrap_difference(*errors, words, groups=groups, resampling=resampling).interval
        difference = bootstrap_difference(*errors, words, resampling=resampling)
        intervals = {**ends(difference.interval), **ends(by_speaker, "low_speakers", "high_speakers")}
        found.append(
            {
                "first": first,
                "second": second,
                "difference": {"wer": difference.value, **intervals},
                "mapsswe": asdict(matched_pairs(alignments_of(one), alignments_of(other), words)),
            }
        )
    return found


def agreements(pairs: Sequence[Comparison], scores: Mapping[str, Score]) -> dict[str, dict[str, Any]]:
    """Every system beside its teacher, as plain data; without one, no entry."""
    teachers = teachers_of(list(scores), pairs)
    return {key: word_agreement(scores[teacher], scores[key]) for key, teacher in teachers.items()}


def teachers_of(keys: Collection[str], pairs: Sequence[Comparison]) -> dict[str, str]:
    """System → its teacher among the systems: that of its pair, or the one of the role `teacher`; none, no entry."""
    teachers = dict.fromkeys(keys, DEFAULT_PAIR.teacher)
    for pair in reversed(pairs):
        teachers |= {pair.baseline: pair.teacher, pair.distilled: pair.teacher}
    return {
        key: teacher
        for key, teacher in teachers.items()
        if key in keys and teacher is not None and teacher in keys and teacher != key
    }


def error_counts(scored: Score) -> list[int]:
    """Word errors of each utterance, [N]."""
    return [utterance.words.errors for utterance in scored.utterances.values()]


def word_counts(scored: Score) -> list[int]:
    """Reference words of each utterance, [N]."""
    return [utterance.words.length for utterance in scored.utterances.values()]


def alignments_of(scored: Score) -> list[Alignment]:
    """Alignment of each utterance's words, [N]."""
    return [utterance.alignment for utterance in scored.utterances.values()]


@dataclass(frozen=True)
class SeedRows:
    """Systems grouped as runs of one."""

    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Row → its runs, by names; a row of one run for a teacher that was not trained again."""
    pairs: Sequence[Comparison] = ()
    """Pairs of rows to compare, with their teachers."""

    def among(self, keys: Mapping[str, str]) -> "SeedRows":
        """The rows of runs that are there, by keys; a pair without its teacher keeps its difference.

        Args:
            keys: name of a run → its key.
        """
        rows = {row: [keys[run] for run in runs if run in keys] for row, runs in self.rows.items()}
        rows = {row: runs for row, runs in rows.items() if runs}
        return SeedRows(rows, without_absent(self.pairs, self.rows.keys() - rows.keys()))


def seed_rows(
    requested: SeedRows,
    errors: Mapping[str, Sequence[int]],
    words: Sequence[int],
    groups: Sequence[str] | None = None,
    resampling: Resampling = DEFAULT,
) -> dict[str, dict[str, Any]]:
    """The rows of several runs, and those of one run that are compared with such, as plain data by name.

    A gap recovered is a ratio of means over runs.

    Args:
        errors: key of every run → word errors of each utterance, [N].
        words: reference words of each utterance, [N].
        groups: the speaker of each utterance; None resamples utterances.

    Raises:
        EvaluationError: a pair names a row that is not there.
    """
    for pair in requested.pairs:
        what = f"the comparison of {pair.distilled!r} with {pair.baseline!r} needs"
        _check_known(pair, requested.rows.keys(), what)
    own_pairs = {pair.distilled: pair for pair in reversed(requested.pairs)}
    errors_of = {row: [errors[run] for run in runs] for row, runs in requested.rows.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, runs in requested.rows.items():
        own = own_pairs.get(name)
        if all(len(errors_of[row]) == 1 for row in (own.names if own is not None else (name,))):
            continue  # one run of everything: the ordinary tables show it
        rate = bootstrap_runs(errors_of[name], words, groups=groups, resampling=resampling)
        found[name] = {
            "runs": list(runs),
            "rates": list(rate.rates),
            "mean": rate.mean,
            "deviation": rate.deviation,
            "lowest": min(rate.rates),
            "highest": max(rate.rates),
            **ends(rate.interval),
        }
        if own is not None:
            found[name] |= {"baseline": own.baseline, "teacher": own.teacher}
        if own is not None and own.teacher is not None:
            hard, kd, teacher = (errors_of[row] for row in (own.baseline, name, own.teacher))
            found[name] |= _recovered(gap_recovered(hard, kd, teacher, words, groups=groups, resampling=resampling))
    return found
