"""Evaluate systems: transcribe every test set with all of them, score, time and measure, and write the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import Exclusion, read_utterance
from asr_kd.errors import EvaluationError, examples
from asr_kd.evaluation.comparison import resolve_comparisons, teachers_of, without_absent
from asr_kd.evaluation.cost_report import cost_report
from asr_kd.evaluation.report import Report, write_report
from asr_kd.evaluation.report.evidence import gather_evidence
from asr_kd.evaluation.results import RunFacts, summarize
from asr_kd.evaluation.resumption import Resumption, SetVariant
from asr_kd.evaluation.sample_measures import Sample, measure_set
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.sweeps import can_change_context, context_matrix, robustness_rows, swept_utterances
from asr_kd.evaluation.system import AnySystem, System, check_external, check_systems, read_external
from asr_kd.evaluation.system_outputs import (
    ReferenceSet,
    TranscribedSet,
    score_set,
    spread,
    transcribe_all,
)
from asr_kd.progress import SILENT, Progress


def evaluate_systems(
    systems: Sequence[System],
    sets: Mapping[str, Sequence[Utterance]],
    settings: EvaluationSettings,
    folder: Path,
    facts: RunFacts | None = None,
    resumption: Resumption | None = None,
    progress: Progress = SILENT,
) -> Report:
    """Evaluate all systems on all test sets and write the report into `folder`.

    Audio is read once and passed to all systems batch by batch, so that they get the same samples and the same
    utterances are left out for all.

    Args:
        systems: one for each role (see `System.key`).
        sets: test set → its utterances. Those without a transcript or with damaged audio are left out for
            every system, and listed.
        facts: further facts of the run for the report, and the pairs of students that it compares.
        resumption: transcripts from before, and reasons to stop; None: neither.

    Raises:
        StoppedEarly: there was a reason to stop.
        EvaluationError: no system, a comparison with one that is not there, or more left out than
            `settings.max_excluded_share` allows.
        AsrKdError: the report cannot be written.
    """
    facts, resumption = facts or RunFacts(), resumption or Resumption()
    external = [read_external(name, path, facts.roles.get(name, "other")) for name, path in settings.others.items()]
    shown: list[AnySystem] = [*systems, *external]
    check_systems(shown)
    check_external(external, sets)
    pairs = resolve_comparisons(shown, without_absent(facts.comparisons, facts.absent_systems))
    names = {system.key: system.name for system in shown}
    transcribed, scored = {}, {}
    for name, utterances in sets.items():
        found = _transcribe(name, utterances, systems, settings, resumption, progress)
        references = {utterance.id: utterance.text or "" for utterance in found.utterances}
        reference_set = ReferenceSet(
            references,
            {utterance.id: utterance.speaker for utterance in found.utterances},
            sum(utterance.duration for utterance in found.utterances),
            found.excluded,
        )
        theirs = {other.key: other.texts_of(name, list(references)) for other in external if other.covers(references)}
        scored[name] = score_set(reference_set, {**found.texts, **theirs}, names, pairs, settings, facts.seed_rows)
        transcribed[name] = found
    timed = [utterance for found in transcribed.values() for utterance in found.utterances]
    waveforms = [read_utterance(utterance) for utterance in spread(timed, settings.rtf_utterances)]
    costs = cost_report(systems, waveforms, memory=settings.memory, progress=progress)
    by_key = {system.key: system for system in systems}
    teachers = teachers_of(by_key.keys(), pairs)
    matrix: dict[str, list[Any]] = {}
    robustness: dict[str, list[Any]] = {}
    for name, found in transcribed.items():
        sample = Sample(found.utterances, settings, facts.bridge)
        if sample.waveforms:
            measure_set(scored[name].entry, systems, teachers, sample)
            progress.update(f"latency and silence {name}", 1, 1, "sets")
        for system in systems if settings.matrix else ():
            if can_change_context(system):
                teacher = by_key.get(teachers.get(system.key, ""))
                swept = swept_utterances(found, settings)
                rows = context_matrix(system, name, swept, sample, teacher, resumption, progress)
                matrix.setdefault(system.key, []).extend(rows)
        for key, rows in robustness_rows(systems, name, found, settings, resumption, progress).items():
            robustness.setdefault(key, []).extend(rows)
    report = summarize(shown, scored, settings, facts, costs, matrix, robustness)
    write_report(report, folder, gather_evidence(report, systems, sets, settings.report, progress), settings.report)
    return report


def _transcribe(
    name: str,
    utterances: Sequence[Utterance],
    systems: Sequence[System],
    settings: EvaluationSettings,
    resumption: Resumption,
    progress: Progress,
) -> TranscribedSet:
    left = [utterance for utterance in utterances if utterance.text is not None]
    excluded = [Exclusion(item.id, item.audio, "no transcript") for item in utterances if item.text is None]
    found = transcribe_all(
        {system.key: system.recognizer for system in systems},
        SetVariant(name),
        left,
        settings.batch_seconds,
        resumption,
        report=lambda done: progress.update(
            f"transcribe {name}", len(utterances) - len(left) + done, len(utterances), "utterances"
        ),
    )
    excluded += found.excluded
    if not found.utterances or len(excluded) > settings.max_excluded_share * len(utterances):
        reasons = examples([f"{item.id}: {item.reason}" for item in excluded], "; ")
        raise EvaluationError(
            f"{len(excluded)} of {len(utterances)} utterances cannot be used ({reasons})",
            where=name,
            expected=f"at most {settings.max_excluded_share:.0%} (evaluate.max_excluded_share)",
            remedy="Run asr-kd check on the corpus and restore the files",
        )
    return found._replace(excluded=excluded)
