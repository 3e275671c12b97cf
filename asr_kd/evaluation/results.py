"""Results of an evaluation as plain data: the contents of results.json, and rows of hypotheses.

Every rate is a fraction; percentages exist only where they are printed. An undefined value is null, beside
its reason.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from asr_kd.evaluation.comparison import Comparison, SeedRows
from asr_kd.evaluation.provenance import provenance
from asr_kd.evaluation.report.loading import FORMAT, FORMAT_VERSION, Report, Row, references_sha256, rows_text
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import AnySystem, Role, report_order
from asr_kd.evaluation.system_outputs import ScoredSet
from asr_kd.scoring.significance import Resampling
from asr_kd.targets.bridge import BridgeSettings


@dataclass(frozen=True)
class Cost:
    """Cost of running a system. None: not known or not measured; so are all of an external system's."""

    parameters: int | None = None
    size_bytes: int | None = None
    real_time_factor: float | None = None
    """Seconds of computing a second of audio, one thread, one utterance at a time; median over utterances."""
    streaming_real_time_factor: float | None = None
    """The same when the audio arrives in packets; None for a system that does not stream."""
    rtf_utterances: int = 0
    device: str = "–"


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that the caller passes on to the report."""

    synthetic: bool = False
    seeds: tuple[int, ...] = ()
    """Training seeds of the systems."""
    seed_rows: SeedRows = field(default_factory=SeedRows)
    """Systems that differ only in their seed, by names."""
    absent_sets: dict[str, str] = field(default_factory=dict)
    """Test set → why it was not evaluated."""
    command: str | None = None
    """None: this process' own command line."""
    absent_systems: Mapping[str, str] = field(default_factory=dict)
    """System → why it was not evaluated."""
    comparisons: tuple[Comparison, ...] = ()
    """Pairs of students to compare, beside that of the roles student_hard and student_kd; those of an absent student
    are left out, and an absent teacher leaves the difference."""
    teachers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a teacher → what is known of distilling from it (how it was bridged, what its targets take …), as plain
    data for the report."""
    recipe: str | None = None
    corpus: str | None = None
    """The corpus' name, for the report and for model cards."""
    dev_sets: tuple[str, ...] = ()
    """Sets that training used to select epochs; the headline is of another one where there is one."""
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """System → a row for each epoch of its training (epoch, dev_wer, …)."""
    pseudo_labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of pseudo-labels → their source, the yield of every filter, the sets that they are the references of."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """External system → its role where it is not "other"."""
    bridge: BridgeSettings | None = None
    """How a teacher's frames and symbols become its students', to compare the two frame by frame; None: the default."""


def summarize(
    systems: Sequence[AnySystem],
    sets: Mapping[str, ScoredSet],
    settings: EvaluationSettings,
    facts: RunFacts,
    costs: Mapping[str, Cost] | None = None,
    cost_reports: Mapping[str, dict[str, Any]] | None = None,
    matrix: Mapping[str, list[dict[str, Any]]] | None = None,
    robustness: Mapping[str, list[dict[str, Any]]] | None = None,
) -> Report:
    """The contents of results.json, with the rows of all hypotheses.

    ``test_sets`` → set → ``teacher | student_hard | student_kd`` (and other systems by name) → errors, beside
    ``comparisons`` (every pair of students, with the gap it recovered), ``gap_recovered`` (that of student_kd and
    student_hard), ``pairs`` (every two systems, tested), ``agreement`` (every student beside its teacher) and facts of
    the set, or ``skipped`` with a reason; ``absent_systems`` → why they are not there; ``models`` → system → cost and
    details; ``seeds`` → row of several training runs → mean and spread on each set; ``matrix``,
    ``robustness`` → system → rows; ``teachers`` → what is known of distilling from them; ``pseudo_labels`` → yield of
    their filters; ``provenance`` → where the numbers come from.

    Args:
        costs: by the systems' keys; a system without one has unknown costs.
        cost_reports: results of `cost_report.cost_report`.
        matrix, robustness: system's key → rows of `sweeps`.
    """
    test_sets: dict[str, Any] = {name: {**found.entry, **_hashes(found.rows)} for name, found in sets.items()}
    test_sets |= {name: {"skipped": reason} for name, reason in facts.absent_sets.items() if name not in test_sets}
    by_key = {system.key: system for system in systems}
    seeds: dict[str, list[dict[str, Any]]] = {}
    for name, found in sets.items():
        for row, entry in found.seeds.items():
            seeds.setdefault(row, []).append({"set": name, **entry})
    summary = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "test_sets": test_sets,
        "absent_systems": dict(facts.absent_systems),
        "models": {
            key: _model(by_key[key], (costs or {}).get(key, Cost()), (cost_reports or {}).get(key))
            for key in report_order(by_key)
        },
        "seeds": seeds,
        "teachers": {name: dict(known) for name, known in facts.teachers.items()},
        "pseudo_labels": {name: dict(known) for name, known in facts.pseudo_labels.items()},
        "curves": {name: [dict(row) for row in rows] for name, rows in facts.curves.items()},
        "provenance": {
            "normalizer": settings.normalizer,
            "synthetic": facts.synthetic,
            "seeds": list(facts.seeds),
            "recipe": facts.recipe,
            "corpus": facts.corpus,
            "dev_sets": list(facts.dev_sets),
            "bootstrap": {
                "samples": settings.bootstrap_samples,
                "seed": settings.bootstrap_seed,
                "confidence": Resampling().confidence,
            },
            **provenance(facts.command),
        },
        "matrix": dict(matrix or {}),
        "robustness": dict(robustness or {}),
    }
    return Report(summary, {name: found.rows for name, found in sets.items()})


def _hashes(rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """SHA-256 of a set's references, which all systems share, and of each system's file of hypotheses."""
    return {
        "references_sha256": references_sha256(next(iter(rows.values()))),
        "hypotheses_sha256": {key: hashlib.sha256(rows_text(own).encode()).hexdigest() for key, own in rows.items()},
    }


def _model(system: AnySystem, cost: Cost, cost_report: dict[str, Any] | None) -> dict[str, Any]:
    """A system's entry among the models; measured values take precedence over those of a model's card."""
    measured = {"name": system.name, "role": system.role, **asdict(cost), "rtf_threads": 1}
    details = {name: value for name, value in system.details.items() if name not in measured}
    return {**measured, **details, **({"cost": cost_report} if cost_report is not None else {})}
