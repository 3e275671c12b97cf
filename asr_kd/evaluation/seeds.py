"""Several training runs (seeds) of one system as one row: mean, spread, intervals that hold both, gap recovered.

One training run says little of a method: another seed changes WER by as much as many a method does. Knows error counts,
not where they come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison
from asr_kd.scoring.significance import GapRecovered, Resampling, RunsRate, bootstrap_runs, gap_recovered

Errors = Mapping[str, Sequence[int]]
"""System's key → word errors of each utterance, [N]."""


@dataclass(frozen=True)
class SeedRow:
    """One row on one test set."""

    name: str
    runs: tuple[str, ...]
    """Keys of the systems that it stands for."""
    rate: RunsRate
    pair: Comparison | None
    """The rows (by name) that it is compared with; None for one that no pair distils."""
    gap: GapRecovered | None
    """Ratio of means over runs; None without a teacher."""


def seed_rows(
    errors: Errors,
    words: Sequence[int],
    rows: Mapping[str, Sequence[str]],
    pairs: Sequence[Comparison] = (),
    *,
    groups: Sequence[str] | None = None,
    resampling: Resampling = Resampling(),  # noqa: B008  # frozen
) -> list[SeedRow]:
    """The rows of several runs, and those of one run that learned from a teacher in such company.

    Args:
        errors: of every run on the same utterances.
        words: reference words of each utterance, [N].
        rows: name → keys of its runs; one run each for a teacher that was not trained again.
        pairs: rows, by name, of which the first learned from the third.
        groups: the speaker of each utterance; None resamples utterances.

    Raises:
        EvaluationError: a pair names a row that is not there.
    """
    for pair in pairs:
        unknown = [name for name in pair.names if name not in rows]
        if unknown:
            raise EvaluationError(
                f"the comparison of {pair.distilled!r} with {pair.baseline!r} needs {unknown[0]!r}",
                expected=f"one of {', '.join(rows)}",
            )
    found = []
    for name, runs in rows.items():
        own = next((pair for pair in pairs if pair.distilled == name), None)
        concerned = runs if own is None else [run for row in own.names for run in rows[row]]
        if len(concerned) == (1 if own is None else len(own.names)):
            continue  # one run of everything: the ordinary tables say it
        rate = bootstrap_runs([errors[run] for run in runs], words, groups=groups, resampling=resampling)
        gap = None
        if own is not None and own.teacher is not None:
            hard, kd, teacher = ([errors[run] for run in rows[row]] for row in (own.baseline, name, own.teacher))
            gap = gap_recovered(hard, kd, teacher, words, groups=groups, resampling=resampling)
        found.append(SeedRow(name, tuple(runs), rate, own, gap))
    return found


def plain_row(row: SeedRow, test_set: str) -> dict[str, Any]:
    """A row as results.json holds it; rates are fractions."""
    low, high = row.rate.interval or (None, None)
    plain: dict[str, Any] = {
        "set": test_set,
        "runs": list(row.runs),
        "rates": list(row.rate.rates),
        "mean": row.rate.mean,
        "deviation": row.rate.deviation,
        "lowest": min(row.rate.rates),
        "highest": max(row.rate.rates),
        "low": low,
        "high": high,
    }
    if row.pair is not None:
        plain |= {"baseline": row.pair.baseline, "teacher": row.pair.teacher}
    if row.gap is not None:
        gap_low, gap_high = row.gap.interval or (None, None)
        plain |= {
            "gap_recovered": row.gap.value,
            "gap_recovered_low": gap_low,
            "gap_recovered_high": gap_high,
            "gap_recovered_reason": row.gap.reason,
        }
    return plain
