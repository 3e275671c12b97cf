"""Runs every system over the same utterances, scores and times them. Knows nothing of how reports look.

Audio is read once and handed to all systems, batch by batch, so that they see the same samples and the same
utterances are left out for all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison, resolve_comparisons, teachers_of, without_absent
from asr_kd.evaluation.cost import measure_costs
from asr_kd.evaluation.expense import all_costs
from asr_kd.evaluation.external_systems import COST, check_others, external_outputs, read_other
from asr_kd.evaluation.panel import Panel, measure_all
from asr_kd.evaluation.provenance import provenance
from asr_kd.evaluation.report import write_report
from asr_kd.evaluation.report.evidence import gather_evidence
from asr_kd.evaluation.results import Excluded, Results, RunFacts, SetResult
from asr_kd.evaluation.scored import Spoken, score_set
from asr_kd.evaluation.seeds import SeedRows
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system_outputs import Texts, ask, spread
from asr_kd.evaluation.systems import Named, System, check_name, check_systems
from asr_kd.progress import SILENT, Progress

EXAMPLES = 3
"""How many excluded utterances an error message names."""


def evaluate_systems(
    systems: Sequence[System],
    sets: Mapping[str, Sequence[Utterance]],
    settings: EvaluationSettings,
    folder: Path,
    facts: RunFacts | None = None,
    known: Mapping[str, Texts] | None = None,
    progress: Progress = SILENT,
) -> Results:
    """Evaluate all systems on all test sets and write the report into `folder`.

    Args:
        systems: one for each role (see `System.key`).
        sets: test set → its utterances. Those without a transcript or with damaged audio are left out for
            every system, and listed.
        facts: what the report must say of the run, and which pairs of students it compares.
        known: test set → what systems wrote of it before; taken as it is in place of asking them again.

    Raises:
        EvaluationError: no system or no test set, an empty one, a duplicate id, a comparison with a system that is
            not there, or more left out than `settings.max_excluded_share` allows.
        AsrKdError: the report cannot be written.
    """
    facts = facts or RunFacts()
    others = [read_other(name, path) for name, path in settings.others.items()]
    shown: list[Named] = [*systems, *others]
    check_systems(shown)
    _check_sets(sets)
    check_others(others, {name: {utterance.id for utterance in found} for name, found in sets.items()})
    pairs = resolve_comparisons(shown, without_absent(facts.comparisons, facts.absent_systems))
    answered = {}
    for name, utterances in sets.items():
        found = _answers(name, utterances, systems, settings, (known or {}).get(name, {}), progress)
        read = external_outputs(others, name, [utterance.id for utterance in found.utterances])
        answered[name] = found._replace(texts=found.texts | read)
    seeds = facts.seed_rows.renamed({system.name: system.key for system in shown})
    evaluated = {name: _score(found, pairs, settings, seeds) for name, found in answered.items()}
    timed = [utterance for found in answered.values() for utterance in found.utterances]
    waveforms = [read_utterance(utterance) for utterance in spread(timed, settings.rtf_utterances)]
    costs = measure_costs(systems, waveforms, progress=progress)
    results = Results(
        names={system.key: system.name for system in shown},
        roles={system.key: system.role for system in shown},
        details={system.key: dict(system.details) for system in shown},
        sets=evaluated,
        costs=costs | {other.key: COST for other in others},
        settings=settings,
        facts=facts,
        provenance=provenance(facts.command),
        measured=measure_all(
            Panel(systems, teachers_of([system.key for system in systems], pairs), settings, facts.bridge, progress),
            {name: (found.utterances, found.texts) for name, found in answered.items()},
            all_costs(systems, costs, waveforms, memory=settings.memory, progress=progress),
        ),
    )
    write_report(results, folder, gather_evidence(results, systems, sets, settings.report, progress))
    return results


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
    known: Texts,
    progress: Progress,
) -> _Answered:
    left = [utterance for utterance in utterances if utterance.text is not None]
    excluded = [Excluded(item.id, str(item.audio), "no transcript") for item in utterances if item.text is None]
    found = ask(
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
    missing = {item.id for item in excluded}
    return _Answered([utterance for utterance in left if utterance.id not in missing], found.texts, excluded)


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


def _score(
    answered: _Answered, pairs: Sequence[Comparison], settings: EvaluationSettings, seeds: SeedRows
) -> SetResult:
    utterances = answered.utterances
    spoken = Spoken(
        {utterance.id: utterance.text or "" for utterance in utterances},
        {utterance.id: utterance.speaker for utterance in utterances},
        sum(utterance.duration for utterance in utterances),
        answered.excluded,
    )
    return score_set(spoken, answered.texts, pairs, settings, seeds)
