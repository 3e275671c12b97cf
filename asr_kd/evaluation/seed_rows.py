"""Several training runs (seeds) of one system as one row: mean, spread, intervals that hold both, gap recovered.

A single training run is weak evidence for a method: another seed can change WER by as much as the method does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison, without_absent
from asr_kd.scoring.significance import DEFAULT, GapRecovered, Resampling, RunsRate, bootstrap_runs, gap_recovered

Errors = Mapping[str, Sequence[int]]
"""System's key → word errors of each utterance, [N]."""


@dataclass(frozen=True)
class SeedRows:
    """Systems grouped as runs of one, by names or by keys."""

    rows: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Row → its runs; a row of one run for a teacher that was not trained again."""
    pairs: Sequence[Comparison] = ()
    """Pairs of rows to compare, with their teachers."""

    def renamed(self, names: Mapping[str, str]) -> "SeedRows":
        """The same with runs renamed by `names`; runs that are not in it are left out."""
        return SeedRows(
            {row: [names[run] for run in runs if run in names] for row, runs in self.rows.items()}, self.pairs
        )

    def among(self, present: Collection[str]) -> "SeedRows":
        """The same restricted to the given runs; a pair without its teacher keeps its difference."""
        rows = {row: [run for run in runs if run in present] for row, runs in self.rows.items()}
        rows = {row: runs for row, runs in rows.items() if runs}
        return SeedRows(rows, without_absent(self.pairs, self.rows.keys() - rows.keys()))


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
    requested: SeedRows,
    errors: Errors,
    words: Sequence[int],
    groups: Sequence[str] | None = None,
    resampling: Resampling = DEFAULT,
) -> list[SeedRow]:
    """The rows of several runs, and those of one run that are compared with such.

    Args:
        requested: rows by the keys of `errors`.
        errors: of every run on the same utterances.
        words: reference words of each utterance, [N].
        groups: the speaker of each utterance; None resamples utterances.

    Raises:
        EvaluationError: a pair names a row that is not there.
    """
    for pair in requested.pairs:
        unknown = [name for name in pair.names if name not in requested.rows]
        if unknown:
            raise EvaluationError(
                f"the comparison of {pair.distilled!r} with {pair.baseline!r} needs {unknown[0]!r}",
                expected=f"one of {', '.join(requested.rows)}",
            )
    found = []
    for name, runs in requested.rows.items():
        own = next((pair for pair in requested.pairs if pair.distilled == name), None)
        if all(len(requested.rows[row]) == 1 for row in (own.names if own is not None else (name,))):
            continue  # one run of everything: the ordinary tables show it
        rate = bootstrap_runs([errors[run] for run in runs], words, groups=groups, resampling=resampling)
        gap = None
        if own is not None and own.teacher is not None:
            hard, kd, teacher = (
                [errors[run] for run in requested.rows[row]] for row in (own.baseline, name, own.teacher)
            )
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
