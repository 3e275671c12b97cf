"""Compare the reports of several runs: check that they are comparable, and compute what differs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison, SeedRows, ends, seed_rows
from asr_kd.evaluation.report.loading import RESULTS, Report, Row, open_report
from asr_kd.scoring.significance import DEFAULT, Resampling, bootstrap_difference

FORMAT, FORMAT_VERSION = "asr-kd comparison", 1

_FACTS = ("recipe", "corpus", "seeds", "date", "command", "git_commit")
_SCORE_AGAIN = "Score their hypotheses again in the same way: asr-kd score"


def open_runs(paths: Sequence[Path]) -> dict[str, Report]:
    """Name of a run → its report, of work_dirs, report folders or files of results.

    A run is named after its work_dir, with as many parent folders as make names unique.

    Raises:
        EvaluationError: fewer than two, one twice, or no evaluation there.
    """
    if len(paths) < 2:
        raise EvaluationError(f"{len(paths)} run", expected="at least two to compare", remedy="Name another one")
    homes = []
    for path in (path.resolve() for path in paths):
        report = path.parent if path.name == RESULTS else path
        homes.append(report.parent if report.name == "report" else report)
    twice = [home for home in homes if homes.count(home) > 1]
    if twice:
        raise EvaluationError("is named twice", where=twice[0], expected="each run once")
    return {name: open_report(path) for name, path in zip(_short_names(homes), paths, strict=True)}


def _short_names(homes: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    for depth in range(1, max(len(home.parts) for home in homes)):
        names = ["/".join(home.parts[-depth:]) for home in homes]
        if len(set(names)) == len(names):
            return names
    return [str(home) for home in homes]


def compare_runs(reports: Mapping[str, Report], *, seeds: bool = False, samples: int = 2_000) -> dict[str, Any]:
    """Every system of every run, set by set, as plain data.

    ``runs`` → run → where it comes from; ``sets`` → set → rows of ``run``, ``key``, ``name``, ``wer`` (fractions) and
    further values of results.json, with ``difference`` from the same system of the first run that has it: paired, over
    the same speakers or utterances; null beside ``difference_reason``. ``seeds``: see `seeds_of_runs`.

    Args:
        seeds: whether the runs are one recipe with several seeds.
        samples: of the bootstrap.

    Raises:
        EvaluationError: other normalizers, a set with other references, no set in common.
    """
    check_comparable_runs(reports)
    names = list(dict.fromkeys(name for report in reports.values() for name in report.sets))
    first = next(iter(reports.values())).summary["provenance"]
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "normalizer": first["normalizer"],
        "runs": {
            run: {name: report.summary["provenance"].get(name) for name in _FACTS} for run, report in reports.items()
        },
        "sets": {name: _rows_of_set(name, reports, Resampling(samples)) for name in names},
        **({"seeds": seeds_of_runs(reports, Resampling(samples))} if seeds else {}),
    }


def check_comparable_runs(reports: Mapping[str, Report]) -> None:
    """Refuse runs whose numbers cannot be compared.

    Raises:
        EvaluationError: names the runs and their normalizers, or the set and the first reference that differs.
    """
    used = {run: report.summary["provenance"]["normalizer"] for run, report in reports.items()}
    if len(set(used.values())) > 1:
        raise EvaluationError(
            f"the runs are under different normalizers ({', '.join(f'{run}: {name}' for run, name in used.items())})",
            expected="one normalizer for all",
            remedy=_SCORE_AGAIN,
        )
    shared = set.intersection(*(set(report.sets) for report in reports.values()))
    if not shared:
        sets = "; ".join(f"{run}: {', '.join(report.sets) or 'none'}" for run, report in reports.items())
        raise EvaluationError(f"the runs have no test set in common ({sets})", expected="at least one")
    for (one, first), (other, second) in combinations(reports.items(), 2):
        for name in [name for name in first.sets if name in second.sets]:
            if first.sets[name]["references_sha256"] != second.sets[name]["references_sha256"]:
                raise EvaluationError(
                    f"{one} and {other} were scored on different references{_first_difference(name, first, second)}",
                    where=name,
                    expected="the same utterances with the same references",
                    remedy=_SCORE_AGAIN,
                )


def _first_difference(name: str, *reports: Report) -> str:
    """Utterances with other references in two runs; all systems of a run have the same."""
    systems = [next(iter(report.rows.get(name, {}).values()), []) for report in reports]
    first, second = ({row["id"]: row["reference"] for row in rows} for rows in systems)
    different = sorted(key for key in {*first, *second} if first.get(key) != second.get(key))
    if not first or not second or not different:
        return ""
    return f" ({len(different)} utterances, for example {different[0]})"


def _rows_of_set(name: str, reports: Mapping[str, Report], resampling: Resampling) -> list[dict[str, Any]]:
    rows = []
    begun: dict[str, str] = {}  # system's key → the first run that has it
    for run, report in reports.items():
        for key in report.systems(name) if name in report.sets else []:
            found, model = report.sets[name][key], report.summary["models"][key]
            base = begun.setdefault(key, run)
            rows.append(
                {
                    "run": run,
                    "key": key,
                    "name": found["name"],
                    "role": model["role"],
                    **{part: found[part] for part in ("wer", "wer_low", "wer_high", "cer", "words")},
                    **{part: found[part] for part in ("substitutions", "deletions", "insertions")},
                    **{part: model[part] for part in ("parameters", "size_bytes", "real_time_factor")},
                    "chunk_ms": model.get("chunk_ms"),
                    **(_difference(name, key, reports[base], report, resampling) if base != run else {}),
                }
            )
    return rows


def _difference(name: str, key: str, base: Report, report: Report, resampling: Resampling) -> dict[str, Any]:
    """WER of a system minus that of the base's, paired."""
    wer = report.sets[name][key]["wer"] - base.sets[name][key]["wer"]
    before, after = ({row["id"]: row for row in found.rows.get(name, {}).get(key, [])} for found in (base, report))
    if not before or before.keys() != after.keys():
        reason = "hypotheses were not kept: no interval"
        return {"difference": {"wer": wer, "low": None, "high": None}, "difference_reason": reason}
    found = bootstrap_difference(
        [_errors(after[utterance_id]) for utterance_id in before],
        [_errors(row) for row in before.values()],
        [row["errors"]["words"] for row in before.values()],
        groups=_speakers(before.values()),
        resampling=resampling,
    )
    return {"difference": {"wer": found.value, **ends(found.interval)}, "difference_reason": None}


def _speakers(rows: Iterable[Row]) -> list[str] | None:
    """The speaker of each utterance; None where they are not known, or there is one only."""
    speakers = [row.get("speaker") for row in rows]
    return None if None in speakers or len(set(speakers)) < 2 else [str(speaker) for speaker in speakers]


def _errors(row: Row) -> int:
    return sum(row["errors"][kind] for kind in ("substitutions", "deletions", "insertions"))


def seeds_of_runs(reports: Mapping[str, Report], resampling: Resampling = DEFAULT) -> dict[str, list[dict[str, Any]]]:
    """Pool every system that all runs have in a row, test set by test set; see `check_comparable_runs`.

    A system whose hypotheses are the same in all runs (an existing teacher) counts as one run.

    Returns:
        System's key → a row for each test set that all runs share, as results.json holds it under `seeds`; its runs are
        named RUN/SYSTEM.

    Raises:
        EvaluationError: no system in common, or hypotheses that were not kept.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name in next(iter(reports.values())).sets:
        if all(name in report.sets for report in reports.values()):
            for key, row in _seed_rows_of_set(name, reports, resampling).items():
                found.setdefault(key, []).append({"set": name, **row})
    return found


def _seed_rows_of_set(name: str, reports: Mapping[str, Report], resampling: Resampling) -> dict[str, dict[str, Any]]:
    by_run: dict[str, dict[str, dict[str, Row]]] = {}  # run → system's key → utterance id → row
    for run, report in reports.items():
        by_run[run] = {key: {row["id"]: row for row in rows} for key, rows in report.rows.get(name, {}).items()}
        if not by_run[run]:
            raise EvaluationError("kept no hypotheses", where=f"{run}, {name}", expected="hypotheses/SET/SYSTEM.jsonl")
    first = next(iter(by_run.values()))
    keys = [key for key in first if all(key in systems for systems in by_run.values())]
    if not keys:
        raise EvaluationError("the runs have no system in common", where=name, expected="runs of one recipe")
    utterances = first[keys[0]]
    rows: dict[str, list[str]] = {}
    errors: dict[str, list[int]] = {}
    for key in keys:
        outputs: set[tuple[str, ...]] = set()
        for run, systems in by_run.items():
            own = [systems[key][utterance_id] for utterance_id in utterances]
            texts = tuple(row["hypothesis"] for row in own)
            if texts not in outputs:  # otherwise the same model again, not another seed
                outputs.add(texts)
                rows.setdefault(key, []).append(f"{run}/{key}")
                errors[f"{run}/{key}"] = [_errors(row) for row in own]
    comparisons = next(iter(reports.values())).sets[name]["comparisons"]
    pairs = [Comparison(pair["distilled"], pair["baseline"], pair["teacher"]) for pair in comparisons]
    requested = SeedRows(rows, [pair for pair in pairs if set(pair.names) <= rows.keys()])
    words = [row["errors"]["words"] for row in utterances.values()]
    return seed_rows(requested, errors, words, _speakers(utterances.values()), resampling)
