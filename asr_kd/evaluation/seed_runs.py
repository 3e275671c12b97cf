"""The rows that several runs of one recipe make, from their reports: each run trained everything with another seed.

Knows reports as plain data.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.distillation import comparisons_of
from asr_kd.evaluation.report.loading import Report, Row, references_sha256
from asr_kd.evaluation.seeds import SeedRows, plain_row, seed_rows
from asr_kd.scoring.significance import DEFAULT, Resampling


def seeds_of_runs(reports: Mapping[str, Report], resampling: Resampling = DEFAULT) -> dict[str, list[dict[str, Any]]]:
    """Every system that stands in all runs as a row, test set by test set.

    A system whose hypotheses are the same in all runs (an existing teacher) counts as one run.

    Args:
        reports: name of a run → its report, two or more.

    Returns:
        System's key → a row for each test set that all runs share, as results.json holds it under `seeds`; its runs are
        named RUN/SYSTEM.

    Raises:
        EvaluationError: fewer than two runs, other normalizers, other references, or hypotheses that were not kept.
    """
    if len(reports) < 2:
        raise EvaluationError(f"{len(reports)} runs", expected="at least two, with different seeds")
    normalizers = {name: report.summary["provenance"]["normalizer"] for name, report in reports.items()}
    if len(set(normalizers.values())) > 1:
        raise EvaluationError(
            f"runs under different normalizers ({', '.join(f'{run}: {used}' for run, used in normalizers.items())})",
            expected="one normalizer",
            remedy="Score their hypotheses again with one: asr-kd score",
        )
    first, *others = reports.values()
    shared = [name for name in first.sets if all(name in report.sets for report in others)]
    found: dict[str, list[dict[str, Any]]] = {}
    for name in shared:
        for key, row in _rows_of_set(name, reports, resampling).items():
            found.setdefault(key, []).append(row)
    return found


def _rows_of_set(name: str, reports: Mapping[str, Report], resampling: Resampling) -> dict[str, Any]:
    told = {run: _by_id(run, name, report) for run, report in reports.items()}
    first = next(iter(told.values()))
    keys = [key for key in first if all(key in systems for systems in told.values())]
    hashes = {references_sha256(rows.values()) for systems in told.values() for rows in systems.values()}
    if not keys or len(hashes) > 1:
        raise EvaluationError(
            "the runs have no system in common" if not keys else "the runs were scored on different references",
            where=name,
            expected="runs of one recipe on one test set",
        )
    utterances = first[keys[0]]
    rows: dict[str, list[str]] = {}
    errors: dict[str, list[int]] = {}
    for key in keys:
        texts: set[tuple[str, ...]] = set()
        for run, systems in told.items():
            own = [systems[key][utterance_id] for utterance_id in utterances]
            said = tuple(row["hypothesis"] for row in own)
            if said in texts:
                continue  # the same model again, not another seed
            texts.add(said)
            rows.setdefault(key, []).append(f"{run}/{key}")
            errors[f"{run}/{key}"] = [_errors(row) for row in own]
    speakers = [row.get("speaker") for row in utterances.values()]
    known = [speaker for speaker in speakers if speaker is not None]
    pairs = [pair for pair in _pairs(next(iter(reports.values())).sets[name]) if set(pair.names) <= rows.keys()]
    words = [row["errors"]["words"] for row in utterances.values()]
    groups = known if len(known) == len(speakers) and len(set(known)) > 1 else None
    found = seed_rows(SeedRows(rows, pairs), errors, words, groups, resampling)
    return {row.name: plain_row(row, name) for row in found}


def _by_id(run: str, name: str, report: Report) -> dict[str, dict[str, Row]]:
    """System's key → utterance id → row."""
    systems = report.rows.get(name, {})
    if not systems:
        raise EvaluationError("kept no hypotheses", where=f"{run}, {name}", expected="hypotheses/SET/SYSTEM.jsonl")
    return {key: {row["id"]: row for row in rows} for key, rows in systems.items()}


def _pairs(found: Mapping[str, Any]) -> Sequence[Comparison]:
    return [Comparison(pair["distilled"], pair["baseline"], pair["teacher"]) for pair in comparisons_of(found)]


def _errors(row: Row) -> int:
    counts = row["errors"]
    return int(counts["substitutions"] + counts["deletions"] + counts["insertions"])
