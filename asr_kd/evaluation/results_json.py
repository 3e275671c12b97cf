"""An evaluation's results as plain data, the contents of results.json.

Every rate is a fraction; percentages exist only where they are printed. An undefined value is null, beside
its reason.
"""

from dataclasses import asdict
from typing import Any

from asr_kd.evaluation.comparison import PairTest, SeedRow
from asr_kd.evaluation.results import Results, SetResult, SystemResult
from asr_kd.evaluation.system import ROLES, report_order
from asr_kd.scoring.significance import Difference, GapRecovered, Interval, Resampling
from asr_kd.scoring.wer import CharacterErrors, GroupErrors, WordErrors

FORMAT = "asr-kd results"
FORMAT_VERSION = 2


def summarize(results: Results) -> dict[str, Any]:
    """The contents of results.json.

    ``test_sets`` → set → ``teacher | student_hard | student_kd`` (and other systems by name) → errors, beside
    ``comparisons`` (every pair of students, with the gap it recovered), ``gap_recovered`` (that of student_kd and
    student_hard), ``pairs`` (every two systems, tested), ``agreement`` (every student beside its teacher) and facts of
    the set, or ``skipped`` with a reason; ``absent_systems`` → why they are not there; ``models`` → system → cost and
    details; ``seeds`` → row of several training runs → mean and spread on each set; ``matrix``,
    ``robustness`` → system → rows; ``teachers`` → what is known of distilling from them; ``pseudo_labels`` → yield of
    their filters; ``provenance`` → where the numbers come from.
    """
    test_sets = {name: _set(results, name, found) for name, found in results.sets.items()}
    absent = results.facts.absent_sets.items()
    test_sets |= {name: {"skipped": reason} for name, reason in absent if name not in test_sets}
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "test_sets": test_sets,
        "absent_systems": dict(results.facts.absent_systems),
        "models": {key: _model(results, key) for key in report_order(results.names)},
        "seeds": _seeds(results),
        "teachers": {name: dict(known) for name, known in results.facts.teachers.items()},
        "pseudo_labels": {name: dict(known) for name, known in results.facts.pseudo_labels.items()},
        "curves": {name: [dict(row) for row in rows] for name, rows in results.facts.curves.items()},
        "provenance": {
            "normalizer": results.settings.normalizer,
            "synthetic": results.facts.synthetic,
            "seeds": list(results.facts.seeds),
            "recipe": results.facts.recipe,
            "corpus": results.facts.corpus,
            "dev_sets": list(results.facts.dev_sets),
            "bootstrap": {
                "samples": results.settings.bootstrap_samples,
                "seed": results.settings.bootstrap_seed,
                "confidence": Resampling().confidence,
            },
            **results.provenance,
        },
        "matrix": {key: list(rows) for key, rows in results.measured.matrix.items()},
        "robustness": {key: list(rows) for key, rows in results.measured.robustness.items()},
    }


def plain_row(row: SeedRow, test_set: str) -> dict[str, Any]:
    """A row of several training runs as results.json holds it; rates are fractions."""
    rate = row.rate
    return {
        "set": test_set,
        "runs": list(row.runs),
        "rates": list(rate.rates),
        "mean": rate.mean,
        "deviation": rate.deviation,
        "lowest": min(rate.rates),
        "highest": max(rate.rates),
        **_ends(rate.interval),
        **({} if row.pair is None else {"baseline": row.pair.baseline, "teacher": row.pair.teacher}),
        **({} if row.gap is None else _recovered(row.gap)),
    }


def _seeds(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Row → its results on each test set."""
    found: dict[str, list[dict[str, Any]]] = {}
    for test_set, evaluated in results.sets.items():
        for row in evaluated.seeds:
            found.setdefault(row.name, []).append(plain_row(row, test_set))
    return found


def _set(results: Results, name: str, found: SetResult) -> dict[str, Any]:
    present = [key for key in report_order(results.names) if key in found.systems]
    measured, frames = results.measured.systems.get(name, {}), results.measured.agreement.get(name, {})
    words = {key: asdict(agreement) for key, agreement in found.agreement.items()}
    return {
        **{
            key: {**_system(results.names[key], found.systems[key], found.seconds), **measured.get(key, {})}
            for key in present
        },
        **_default_gap(found),
        "comparisons": [
            {
                **asdict(compared.pair),
                **_gap(compared.gap_recovered, "its teacher was not evaluated"),
                "difference": _difference(compared.difference),
            }
            for compared in found.comparisons
        ],
        "resampled_by": found.resampled_by,
        "pairs": [_pair(test) for test in found.pairs],
        "agreement": {key: {**words.get(key, {}), **frames.get(key, {})} for key in dict.fromkeys([*words, *frames])},
        "utterances": len(found.references),
        "speakers": found.num_speakers,
        "seconds": _rounded(found.seconds),
        "excluded": [asdict(item) for item in found.excluded],
    }


def _system(name: str, result: SystemResult, seconds: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "wer": result.score.words.wer,
        **_ends(result.interval, "wer_low", "wer_high"),
        **_ends(result.speaker_interval, "wer_low_speakers", "wer_high_speakers"),
        "cer": result.score.characters.cer,
        **_counts(result.score.words, result.score.characters),
        "utterances": len(result.score.utterances),
        "seconds": _rounded(seconds),
        "by_speaker": {speaker: _group(errors) for speaker, errors in result.by_speaker.items()},
    }


def _group(errors: GroupErrors) -> dict[str, Any]:
    """A speaker's errors; rates are null where the references hold nothing."""
    words, characters = errors.words, errors.characters
    return {
        "utterances": errors.utterances,
        "errors": words.errors,
        "wer": words.wer if words.words else None,
        "cer": characters.cer if characters.characters else None,
        **_counts(words, characters),
    }


def _counts(words: WordErrors, characters: CharacterErrors) -> dict[str, int]:
    return {
        **words.row,
        "character_substitutions": characters.substitutions,
        "character_deletions": characters.deletions,
        "character_insertions": characters.insertions,
        "characters": characters.characters,
    }


def _pair(test: PairTest) -> dict[str, Any]:
    return {
        "first": test.first,
        "second": test.second,
        "difference": {
            **_difference(test.difference),
            **_ends(test.speaker_interval, "low_speakers", "high_speakers"),
        },
        "mapsswe": asdict(test.matched),
    }


def _default_gap(found: SetResult) -> dict[str, Any]:
    """The gap recovered by student_kd over student_hard."""
    default = found.default_pair
    missing = f"not among the systems: {', '.join(role for role in ROLES if role not in found.systems)}"
    if default is None and found.comparisons:
        missing += f"; comparisons: {', '.join(compared.pair.distilled for compared in found.comparisons)}"
    return _gap(default.gap_recovered if default is not None else None, missing)


def _gap(gap: GapRecovered | None, without: str) -> dict[str, Any]:
    if gap is None:
        undefined = dict.fromkeys(("gap_recovered", "gap_recovered_low", "gap_recovered_high"))
        return {**undefined, "gap_recovered_reason": without}
    return {**_recovered(gap), "gap": {"wer": gap.gap, **_ends(gap.gap_interval)}}


def _recovered(gap: GapRecovered) -> dict[str, Any]:
    ends = _ends(gap.interval, "gap_recovered_low", "gap_recovered_high")
    return {"gap_recovered": gap.value, **ends, "gap_recovered_reason": gap.reason}


def _difference(difference: Difference) -> dict[str, Any]:
    return {"wer": difference.value, **_ends(difference.interval)}


def _model(results: Results, key: str) -> dict[str, Any]:
    cost = results.costs[key]
    measured = {
        "name": results.names[key],
        "role": results.roles[key],
        **asdict(cost),
        "rtf_threads": 1,
    }
    # Measured values take precedence over those of a model's card.
    costs = {"cost": results.measured.costs[key]} if key in results.measured.costs else {}
    return measured | {name: value for name, value in results.details[key].items() if name not in measured} | costs


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def _ends(interval: Interval | None, low: str = "low", high: str = "high") -> dict[str, float | None]:
    """Both ends of an interval under these names."""
    return dict(zip((low, high), interval or (None, None), strict=True))
