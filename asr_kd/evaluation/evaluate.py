"""Runs every system over the same utterances, scores and times them. Knows nothing of how reports look.

Audio is read once and handed to all systems, batch by batch, so that they see the same samples and the same
utterances are left out for all.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError, EvaluationError
from asr_kd.evaluation.comparison import Comparison, resolve_comparisons, without_absent
from asr_kd.evaluation.cost import measure_costs
from asr_kd.evaluation.provenance import provenance
from asr_kd.evaluation.report import write_report
from asr_kd.evaluation.results import Excluded, Results, RunFacts, SetResult
from asr_kd.evaluation.scored import score_set
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.systems import System, check_name, check_systems
from asr_kd.progress import SILENT, Progress

EXAMPLES = 3
"""How many excluded utterances an error message names."""


def evaluate_systems(
    systems: Sequence[System],
    sets: Mapping[str, Sequence[Utterance]],
    settings: EvaluationSettings,
    folder: Path,
    facts: RunFacts | None = None,
    progress: Progress = SILENT,
) -> Results:
    """Evaluate all systems on all test sets and write the report into `folder`.

    Args:
        systems: one for each role (see `System.key`).
        sets: test set → its utterances. Those without a transcript or with damaged audio are left out for
            every system, and listed.
        facts: what the report must say of the run, and which pairs of students it compares.

    Raises:
        EvaluationError: no system or no test set, an empty one, a duplicate id, a comparison with a system that is
            not there, or more left out than `settings.max_excluded_share` allows.
        AsrKdError: the report cannot be written.
    """
    facts = facts or RunFacts()
    check_systems(systems)
    _check_sets(sets)
    pairs = resolve_comparisons(systems, without_absent(facts.comparisons, facts.absent_systems))
    evaluated = {}
    for name, utterances in sets.items():
        answered = _answers(name, utterances, systems, settings, progress)
        evaluated[name] = _score(answered, pairs, settings)
    timed = [utterance for name in sets for utterance in sets[name] if utterance.id in evaluated[name].references]
    waveforms = [read_utterance(utterance) for utterance in spread(timed, settings.rtf_utterances)]
    results = Results(
        names={system.key: system.name for system in systems},
        roles={system.key: system.role for system in systems},
        details={system.key: dict(system.details) for system in systems},
        sets=evaluated,
        costs=measure_costs(systems, waveforms, progress=progress),
        settings=settings,
        facts=facts,
        provenance=provenance(facts.command),
    )
    write_report(results, folder)
    return results


def spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """At most `count` utterances at equal steps from the shortest to the longest."""
    by_duration = sorted(utterances, key=lambda utterance: (utterance.duration, utterance.id))
    if count >= len(by_duration):
        return by_duration
    return [by_duration[(2 * index + 1) * len(by_duration) // (2 * count)] for index in range(count)]


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


class _Answered(NamedTuple):
    """What was transcribed of a test set."""

    utterances: list[Utterance]
    texts: dict[str, dict[str, str]]  # system's key → utterance id → text
    excluded: list[Excluded]


def _answers(
    name: str,
    utterances: Sequence[Utterance],
    systems: Sequence[System],
    settings: EvaluationSettings,
    progress: Progress,
) -> _Answered:
    left = [utterance for utterance in utterances if utterance.text is not None]
    excluded = [Excluded(item.id, str(item.audio), "no transcript") for item in utterances if item.text is None]
    answers: dict[str, dict[str, str]] = {system.key: {} for system in systems}
    done = len(excluded)
    for batch in _batches(left, settings.batch_seconds):
        for utterance_id, texts in _transcribe(batch, systems, excluded).items():
            for system, text in zip(systems, texts, strict=True):
                answers[system.key][utterance_id] = text
        done += len(batch)
        progress.update(f"transcribe {name}", done, len(utterances), "utterances")
    _check_excluded(name, excluded, len(utterances), settings.max_excluded_share)
    missing = {item.id for item in excluded}
    return _Answered([utterance for utterance in left if utterance.id not in missing], answers, excluded)


def _transcribe(
    batch: Sequence[Utterance], systems: Sequence[System], excluded: list[Excluded]
) -> dict[str, list[str]]:
    """Utterance id → one transcript a system; damaged utterances go to `excluded` instead."""
    waveforms: dict[str, Tensor] = {}
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_utterance(utterance)
        except AudioError as error:
            excluded.append(Excluded(utterance.id, str(utterance.audio), str(error)))
    if not waveforms:
        return {}
    columns = []
    for system in systems:
        texts = system.recognizer.transcribe(list(waveforms.values()))
        if len(texts) != len(waveforms):
            raise EvaluationError(
                f"gave {len(texts)} transcripts for {len(waveforms)} waveforms", where=system.name, expected="one each"
            )
        columns.append(texts)
    rows = zip(*columns, strict=True)
    return {utterance_id: list(texts) for utterance_id, texts in zip(waveforms, rows, strict=True)}


def _batches(utterances: Sequence[Utterance], batch_seconds: float) -> Iterator[list[Utterance]]:
    """Utterances of similar length, longest first, up to `batch_seconds` with their padding."""
    batch: list[Utterance] = []
    for utterance in sorted(utterances, key=lambda utterance: (-utterance.duration, utterance.id)):
        if batch and (len(batch) + 1) * batch[0].duration > batch_seconds:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch


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


def _score(answered: _Answered, pairs: Sequence[Comparison], settings: EvaluationSettings) -> SetResult:
    utterances = answered.utterances
    return score_set(
        {utterance.id: utterance.text or "" for utterance in utterances},
        {utterance.id: utterance.speaker for utterance in utterances},
        answered.texts,
        pairs,
        settings,
        seconds=sum(utterance.duration for utterance in utterances),
        excluded=answered.excluded,
    )
