"""Evaluate systems: transcribe every test set with all of them, score, time and measure, and write the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import resolve_comparisons, teachers_of, without_absent
from asr_kd.evaluation.cost_report import cost_report, measure_costs
from asr_kd.evaluation.provenance import provenance
from asr_kd.evaluation.report import write_report
from asr_kd.evaluation.report.evidence import gather_evidence
from asr_kd.evaluation.results import Cost, Excluded, Measurements, Results, RunFacts
from asr_kd.evaluation.sample_measures import Sample, measure_set
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.sweeps import can_change_context, context_matrix, robustness_rows
from asr_kd.evaluation.system import (
    AnySystem,
    System,
    check_external,
    check_name,
    check_systems,
    external_outputs,
    read_external,
)
from asr_kd.evaluation.system_outputs import (
    OutputTexts,
    ReferenceSet,
    TranscribedSet,
    score_set,
    spread,
    transcribe_all,
)
from asr_kd.progress import SILENT, Progress
from asr_kd.targets.bridge import BridgeSettings

EXAMPLES = 3
"""Excluded utterances that an error message names."""


class MeasuredSystems(NamedTuple):
    """The systems that are measured, and the settings of the measurements."""

    systems: Sequence[System]
    teachers: Mapping[str, str]
    """System's key → its teacher's."""
    settings: EvaluationSettings
    bridge: BridgeSettings | None
    progress: Progress

    def teacher_of(self, system: System) -> System | None:
        key = self.teachers.get(system.key)
        return next((other for other in self.systems if other.key == key), None)


def evaluate_systems(
    systems: Sequence[System],
    sets: Mapping[str, Sequence[Utterance]],
    settings: EvaluationSettings,
    folder: Path,
    facts: RunFacts | None = None,
    known: Mapping[str, OutputTexts] | None = None,
    progress: Progress = SILENT,
) -> Results:
    """Evaluate all systems on all test sets and write the report into `folder`.

    Audio is read once and passed to all systems batch by batch, so that they get the same samples and the same
    utterances are left out for all.

    Args:
        systems: one for each role (see `System.key`).
        sets: test set → its utterances. Those without a transcript or with damaged audio are left out for
            every system, and listed.
        facts: further facts of the run for the report, and the pairs of students that it compares.
        known: test set → transcripts from before; used as they are instead of transcribing again.

    Raises:
        EvaluationError: no system or no test set, an empty one, a duplicate id, a comparison with a system that is
            not there, or more left out than `settings.max_excluded_share` allows.
        AsrKdError: the report cannot be written.
    """
    facts = facts or RunFacts()
    external = [read_external(name, path, facts.roles.get(name, "other")) for name, path in settings.others.items()]
    shown: list[AnySystem] = [*systems, *external]
    check_systems(shown)
    _check_sets(sets)
    check_external(external, {name: {utterance.id for utterance in found} for name, found in sets.items()})
    pairs = resolve_comparisons(shown, without_absent(facts.comparisons, facts.absent_systems))
    transcribed = {}
    for name, utterances in sets.items():
        found = _transcribe(name, utterances, systems, settings, (known or {}).get(name, {}), progress)
        read = external_outputs(external, name, [utterance.id for utterance in found.utterances])
        transcribed[name] = found._replace(texts={**found.texts, **read})
    seeds = facts.seed_rows.renamed({system.name: system.key for system in shown})
    scored = {}
    for name, found in transcribed.items():
        reference_set = ReferenceSet(
            {utterance.id: utterance.text or "" for utterance in found.utterances},
            {utterance.id: utterance.speaker for utterance in found.utterances},
            sum(utterance.duration for utterance in found.utterances),
            found.excluded,
        )
        scored[name] = score_set(reference_set, found.texts, pairs, settings, seeds)
    timed = [utterance for found in transcribed.values() for utterance in found.utterances]
    waveforms = [read_utterance(utterance) for utterance in spread(timed, settings.rtf_utterances)]
    costs = measure_costs(systems, waveforms, progress=progress)
    teachers = teachers_of([system.key for system in systems], pairs)
    results = Results(
        names={system.key: system.name for system in shown},
        roles={system.key: system.role for system in shown},
        details={system.key: dict(system.details) for system in shown},
        sets=scored,
        costs=costs | {system.key: Cost() for system in external},
        settings=settings,
        facts=facts,
        provenance=provenance(facts.command),
        measured=measure_all(
            MeasuredSystems(systems, teachers, settings, facts.bridge, progress),
            transcribed,
            cost_report(systems, costs, waveforms, memory=settings.memory, progress=progress),
        ),
    )
    write_report(results, folder, gather_evidence(results, systems, sets, settings.report, progress))
    return results


def measure_all(
    measured: MeasuredSystems, sets: Mapping[str, TranscribedSet], costs: Mapping[str, dict[str, Any]]
) -> Measurements:
    """Measure on every set what the settings request."""
    settings = measured.settings
    systems: dict[str, dict[str, Any]] = {}
    agreement: dict[str, dict[str, Any]] = {}
    matrix: dict[str, list[Any]] = {}
    robustness: dict[str, list[Any]] = {}
    for name, (utterances, texts, _) in sets.items():
        sample = Sample(utterances, settings, measured.bridge)
        if sample.waveforms:
            systems[name], agreement[name] = measure_set(measured.systems, measured.teachers, sample)
            measured.progress.update(f"latency and silence {name}", 1, 1, "sets")
        with_words = [utterance for utterance in utterances if (utterance.text or "").strip()]
        swept = spread(with_words, settings.sweep_utterances or len(with_words))
        for system in measured.systems if settings.matrix else ():
            if can_change_context(system):
                teacher = measured.teacher_of(system)
                rows = context_matrix(system, name, swept, sample, teacher, measured.progress)
                matrix.setdefault(system.key, []).extend(rows)
        if settings.conditions:
            found = robustness_rows(measured.systems, name, swept, texts, settings, measured.progress)
            for key, rows in found.items():
                robustness.setdefault(key, []).extend(rows)
    return Measurements(systems, agreement, costs, matrix, robustness)


def _check_sets(sets: Mapping[str, Sequence[Utterance]]) -> None:
    if not sets:
        raise EvaluationError("there is no test set", expected="at least one", remedy="Prepare a corpus with test data")
    for name, utterances in sets.items():
        check_name(name, "test set")
        if not utterances:
            raise EvaluationError("the test set is empty", where=name, expected="at least one utterance")
        ids = [utterance.id for utterance in utterances]
        if len(set(ids)) < len(ids):
            twice = next(utterance_id for utterance_id in ids if ids.count(utterance_id) > 1)
            raise EvaluationError(f"the id {twice!r} stands in it more than once", where=name, expected="each id once")


def _transcribe(
    name: str,
    utterances: Sequence[Utterance],
    systems: Sequence[System],
    settings: EvaluationSettings,
    known: OutputTexts,
    progress: Progress,
) -> TranscribedSet:
    left = [utterance for utterance in utterances if utterance.text is not None]
    excluded = [Excluded(item.id, str(item.audio), "no transcript") for item in utterances if item.text is None]
    found = transcribe_all(
        {system.key: system.recognizer for system in systems},
        left,
        settings.batch_seconds,
        known=known,
        report=lambda done: progress.update(
            f"transcribe {name}", len(utterances) - len(left) + done, len(utterances), "utterances"
        ),
    )
    excluded += found.excluded
    _check_excluded(name, excluded, len(utterances), settings.max_excluded_share)
    return found._replace(excluded=excluded)


def _check_excluded(name: str, excluded: Sequence[Excluded], total: int, allowed: float) -> None:
    if len(excluded) < total and len(excluded) <= allowed * total:
        return
    examples = "; ".join(f"{item.id}: {item.reason}" for item in excluded[:EXAMPLES])
    raise EvaluationError(
        f"{len(excluded)} of {total} utterances cannot be used ({examples})",
        where=name,
        expected=f"at most {allowed:.0%} (evaluate.max_excluded_share)",
        remedy="Run asr-kd check on the corpus and restore the files",
    )
