"""All systems of an evaluation and everything that is measured on them beside their errors, set by set."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from asr_kd.corpora.manifest import Utterance
from asr_kd.evaluation.matrix import can_change_context, context_matrix
from asr_kd.evaluation.measured import Measured
from asr_kd.evaluation.measuring import Sample, measure_set
from asr_kd.evaluation.robustness import robustness_rows
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system_outputs import spread
from asr_kd.evaluation.systems import System
from asr_kd.progress import Progress
from asr_kd.targets.bridge import BridgeSettings


class Panel(NamedTuple):
    """Who is measured, and how."""

    systems: Sequence[System]
    teachers: Mapping[str, str]
    """System's key → its teacher's."""
    settings: EvaluationSettings
    bridge: BridgeSettings | None
    progress: Progress

    def teacher_of(self, system: System) -> System | None:
        """The system's teacher among the systems."""
        key = self.teachers.get(system.key)
        return next((other for other in self.systems if other.key == key), None)


Scored = tuple[Sequence[Utterance], Mapping[str, Mapping[str, str]]]
"""The utterances that all systems were scored on, and system's key → utterance id → what it wrote."""


def measure_all(panel: Panel, sets: Mapping[str, Scored], costs: Mapping[str, dict[str, Any]]) -> Measured:
    """Measure what the settings ask for on every set.

    Args:
        sets: by name.
        costs: system → what running it takes, measured already.
    """
    systems: dict[str, dict[str, Any]] = {}
    agreement: dict[str, dict[str, Any]] = {}
    matrix: dict[str, list[Any]] = {}
    robustness: dict[str, list[Any]] = {}
    for name, (utterances, texts) in sets.items():
        sample = Sample(utterances, panel.settings, panel.bridge)
        if sample.waveforms:
            systems[name], agreement[name] = measure_set(panel.systems, panel.teachers, sample)
            panel.progress.update(f"delay and silence {name}", 1, 1, "sets")
        swept = _swept(utterances, panel.settings)
        for key, rows in _matrix(panel, name, swept, sample).items():
            matrix.setdefault(key, []).extend(rows)
        for key, rows in _robustness(panel, name, swept, texts).items():
            robustness.setdefault(key, []).extend(rows)
    return Measured(systems, agreement, costs, matrix, robustness)


def _swept(utterances: Sequence[Utterance], settings: EvaluationSettings) -> list[Utterance]:
    """What the matrix and the conditions are tried on: at least one word must be among the references."""
    spoken = [utterance for utterance in utterances if (utterance.text or "").strip()]
    return spread(spoken, settings.sweep_utterances or len(spoken))


def _matrix(panel: Panel, name: str, utterances: Sequence[Utterance], sample: Sample) -> dict[str, list[Any]]:
    if not panel.settings.matrix:
        return {}
    return {
        system.key: context_matrix(system, name, utterances, sample, panel.teacher_of(system), panel.progress)
        for system in panel.systems
        if can_change_context(system)
    }


def _robustness(
    panel: Panel, name: str, utterances: Sequence[Utterance], texts: Mapping[str, Mapping[str, str]]
) -> dict[str, list[Any]]:
    if not panel.settings.conditions:
        return {}
    return robustness_rows(panel.systems, name, utterances, texts, panel.settings, panel.progress)
