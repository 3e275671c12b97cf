"""Confidence intervals of error rates, differences and the recovered gap, by percentile bootstrap.

Test sets are resampled by utterance or, where `groups` are given, by whole speakers, whose utterances
share their errors (Bisani & Ney 2004; blockwise: Liu & Peng 2019). All systems of a comparison see the
same resamples, so a test set that is hard for all of them cancels out.

Shapes: N utterances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asr_kd.errors import EvaluationError

Floats = NDArray[np.float64]

CHUNK_DRAWS = 1_000_000
"""Utterances drawn at a time: bounds memory at about 20 MB whatever the size of the test set."""


class Interval(NamedTuple):
    """Percentile interval; its ends are resampled values, never interpolated inwards."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Resampling:
    """How many resamples, from which seed, for which coverage."""

    samples: int = 2_000
    seed: int = 0
    confidence: float = 0.95


DEFAULT = Resampling()


@dataclass(frozen=True, slots=True)
class Difference:
    """WER of one system minus WER of another (fractions); negative when the first makes fewer errors."""

    value: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class GapRecovered:
    """Share of the gap to the teacher that distillation closed; `value` is None when it is undefined.

    `gap` is the denominator: WER without distillation − WER of the teacher.
    """

    value: float | None
    interval: Interval | None
    gap: float
    gap_interval: Interval | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RunsRate:
    """WER of several training runs (seeds) of one system, as fractions."""

    rates: tuple[float, ...]
    """Of each run."""
    mean: float
    deviation: float | None
    """Standard deviation over runs (n − 1); None for one."""
    interval: Interval | None
    """Of the mean, when runs are drawn as well as utterances or speakers."""


def bootstrap_wer(
    errors: ArrayLike, words: ArrayLike, *, groups: Sequence[str] | None = None, resampling: Resampling = DEFAULT
) -> Interval | None:
    """Interval of a word error rate.

    Args:
        errors: errors of each utterance, [N].
        words: reference words of each utterance, [N].
        groups: the speaker of each utterance; None resamples utterances.

    Returns:
        The interval as fractions, or None when there are fewer than two utterances (speakers) to draw from.

    Raises:
        EvaluationError: no utterance, or no reference word.
    """
    _, rates = _resampled([errors], words, groups, resampling)
    return None if rates is None else _percentiles(rates[:, 0], resampling.confidence)


def bootstrap_difference(
    errors: ArrayLike,
    baseline_errors: ArrayLike,
    words: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    resampling: Resampling = DEFAULT,
) -> Difference:
    """WER of a system minus that of a baseline on the same utterances, with its paired interval.

    Args and raises: as `bootstrap_wer`.
    """
    totals, rates = _resampled([errors, baseline_errors], words, groups, resampling)
    interval = None if rates is None else _percentiles(rates[:, 0] - rates[:, 1], resampling.confidence)
    return Difference(float((totals[1] - totals[2]) / totals[0]), interval)


def bootstrap_runs(
    errors: ArrayLike, words: ArrayLike, *, groups: Sequence[str] | None = None, resampling: Resampling = DEFAULT
) -> RunsRate:
    """Mean WER of several training runs of one system on the same utterances, with its spread and interval.

    Args:
        errors: errors of each run and utterance, [R, N]. With R runs the bootstrap sees (R − 1)/R of the variance
            between them: three runs are few.

    The others and what it raises: as `bootstrap_wer`.
    """
    totals, rates = _resampled(list(_runs(errors)), words, groups, resampling)
    own = totals[1:] / totals[0]
    interval = None
    if rates is not None:
        (means,) = _means_over_runs(rates, [len(own)], resampling.seed)
        interval = _percentiles(means, resampling.confidence)
    deviation = float(own.std(ddof=1)) if len(own) > 1 else None
    return RunsRate(tuple(own.tolist()), float(own.mean()), deviation, interval)


def gap_recovered(
    hard: ArrayLike,
    kd: ArrayLike,
    teacher: ArrayLike,
    words: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    resampling: Resampling = DEFAULT,
) -> GapRecovered:
    """(WER without KD − WER with KD) / (WER without KD − WER of the teacher), jointly resampled.

    Args:
        hard: errors of the student without distillation, [N], or [R, N] for R training runs (seeds).
        kd: the same for the student with distillation.
        teacher: the same for the teacher.
        words: reference words, [N].
        groups: the speaker of each utterance; None resamples utterances.

    Returns:
        A ratio of means over runs; runs are resampled too where there are several. Undefined, with the
        reason, when the teacher's lead has an interval that is not wholly above 0.

    Raises:
        EvaluationError: no utterance, or no reference word.
    """
    runs = [_runs(errors) for errors in (hard, kd, teacher)]
    totals, rates = _resampled([run for system in runs for run in system], words, groups, resampling)
    # In errors a run, not in WERs: the words cancel in the ratio, and whole numbers stay exact.
    hard_errors, kd_errors, teacher_errors = (float(system.sum() / len(system)) for system in runs)
    lead = hard_errors - teacher_errors
    gap = lead / float(totals[0])
    if rates is None:
        unit = "utterance" if groups is None else "speaker"
        return GapRecovered(None, None, gap, None, f"one {unit} alone cannot be resampled")
    hard_rates, kd_rates, teacher_rates = _means_over_runs(rates, list(map(len, runs)), resampling.seed)
    gaps = hard_rates - teacher_rates
    gap_interval = _percentiles(gaps, resampling.confidence)
    reason = _why_undefined(gap, gap_interval, resampling.confidence)
    if reason:
        return GapRecovered(None, None, gap, gap_interval, reason)
    interval = _ratio_interval(hard_rates - kd_rates, gaps, resampling.confidence)
    return GapRecovered((hard_errors - kd_errors) / lead, interval, gap, gap_interval)


def _why_undefined(gap: float, interval: Interval, confidence: float) -> str | None:
    spread = f"{100 * confidence:g} % interval [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
    if 0 in interval:
        return f"the teacher's lead of {100 * gap:.2f} points has the {spread}, which holds 0"
    if interval.high < 0:
        behind = f"the teacher is {-100 * gap:.2f} points behind the student without distillation"
        return f"{behind}, {spread}: there is no gap to recover"
    return None


def _ratio_interval(closed: Floats, gaps: Floats, confidence: float) -> Interval:
    """Percentiles of closed / gaps where a resample whose gap is not positive counts against both ends."""
    positive = gaps > 0
    ratios = np.divide(closed, gaps, out=np.zeros_like(gaps), where=positive)
    low = _percentiles(np.where(positive, ratios, -np.inf), confidence).low
    high = _percentiles(np.where(positive, ratios, np.inf), confidence).high
    return Interval(low, high)


def _means_over_runs(rates: Floats, counts: Sequence[int], seed: int) -> list[Floats]:
    """Mean rate of each system in each resample, its runs drawn with replacement too."""
    rng = np.random.default_rng([seed, 1])  # apart from the draws of utterances
    means, start = [], 0
    for count in counts:
        system = rates[:, start : start + count]
        drawn = rng.integers(0, count, size=system.shape)
        means.append(np.take_along_axis(system, drawn, axis=1).mean(axis=1))
        start += count
    return means


def _percentiles(values: Floats, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    return Interval(
        float(np.quantile(values, tail, method="lower")), float(np.quantile(values, 1 - tail, method="higher"))
    )


def _runs(errors: ArrayLike) -> Floats:
    """Errors of one or several runs as [R, N]."""
    return np.atleast_2d(np.asarray(errors, dtype=np.float64))


def _resampled(
    systems: Sequence[ArrayLike], words: ArrayLike, groups: Sequence[str] | None, resampling: Resampling
) -> tuple[Floats, Floats | None]:
    """Words and errors of every system, [1 + systems], and the error rates in every resample, [samples, systems].

    The rates are None when nothing varies to draw from.
    """
    columns = np.stack([np.asarray(counts, dtype=np.float64) for counts in (words, *systems)]).T  # [N, 1 + systems]
    if groups is not None and len(groups) != len(columns):
        raise ValueError(f"{len(groups)} groups and {len(columns)} utterances are not one entry an utterance")
    totals = columns.sum(axis=0)
    if not totals[0]:
        raise EvaluationError(
            f"{len(columns)} utterances hold no reference word", expected="at least one", where="bootstrap"
        )
    if groups is not None:
        _, group_of = np.unique(np.asarray(groups), return_inverse=True)
        grouped = np.zeros((int(group_of.max()) + 1, columns.shape[1]))
        np.add.at(grouped, group_of, columns)
        columns = grouped
    if len(columns) < 2:
        return totals, None
    drawn = _resampled_totals(columns, resampling)
    drawn = drawn[drawn[:, 0] > 0]  # a resample of empty references alone has no rate
    return totals, drawn[:, 1:] / drawn[:, :1] if len(drawn) else None


def _resampled_totals(columns: Floats, resampling: Resampling) -> Floats:
    """Column sums of `samples` draws with replacement of the rows of `columns`, [samples, columns]."""
    rng = np.random.default_rng(resampling.seed)
    size = len(columns)
    totals = np.empty((resampling.samples, columns.shape[1]))
    step = max(1, CHUNK_DRAWS // size)
    for start in range(0, resampling.samples, step):
        count = min(step, resampling.samples - start)
        drawn = rng.integers(0, size, size=(count, size)) + size * np.arange(count)[:, None]
        times_drawn = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
        totals[start : start + count] = times_drawn.astype(np.float64) @ columns
    return totals
