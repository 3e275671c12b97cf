"""Measurements beside the errors: latency, frame agreement, stability and silence on a sample of a set.

Shapes: S samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.cost_report import can_stream
from asr_kd.evaluation.frame_measures import frame_agreement, measure_delay
from asr_kd.evaluation.open_systems import SystemPosteriors, bridged_to, posteriors_of
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.stability import measure_stability, measure_trailing_silence
from asr_kd.evaluation.system import System
from asr_kd.evaluation.system_outputs import spread
from asr_kd.targets.bridge import BridgeSettings

NO_TEACHER = "no teacher is among the systems"
IS_TEACHER = "it is the teacher"
TEXT_ONLY = "it gives text, not posteriors"


class Sample:
    """A sample of a test set's utterances, read once, with the measurements on it.

    Args:
        utterances: that every system was scored on; `settings.sample_utterances` of them are taken.
        settings: of the evaluation.
        bridge: how a teacher's frames and symbols become the student's; None is the default.
    """

    def __init__(
        self, utterances: Sequence[Utterance], settings: EvaluationSettings, bridge: BridgeSettings | None = None
    ) -> None:
        sample = spread(utterances, settings.sample_utterances)
        self.references = [utterance.text or "" for utterance in sample]
        self.waveforms = [read_utterance(utterance) for utterance in sample]
        self.settings, self.bridge = settings, bridge
        self._cache: dict[tuple[str, str], list[Tensor]] = {}

    def system(self, system: System) -> dict[str, Any]:
        """Stability and trailing silence of one system."""
        return {**self._stability(system), **self._silence(system)}

    def against(self, teacher: System | None, student: System) -> tuple[dict[str, Any], dict[str, Any]]:
        """A student's delay, and the agreement of its frames with the teacher's, as plain data."""
        try:
            reference, own = self._posteriors_of_both(teacher, student)
        except EvaluationError as error:
            reason = str(error)
            return {"delay": None, "delay_reason": reason}, {"frame_kl": None, "frame_kl_reason": reason}
        name = teacher.key if teacher is not None else ""
        pairs = list(zip(self._teacher_log_probs(name, reference), map(own.log_probs, self.waveforms), strict=True))
        delay = measure_delay(self.references, reference, own, pairs).plain()
        return {"delay": {"against": name, **delay}}, frame_agreement(pairs, own.vocabulary.blank_id)

    def _teacher_log_probs(self, name: str, hearing: SystemPosteriors) -> list[Tensor]:
        """Of every waveform, [T, V]; computed once for all students of a teacher."""
        key = (name, hearing.vocabulary.sha256)
        if key not in self._cache:
            self._cache[key] = [hearing.log_probs(waveform) for waveform in self.waveforms]
        return self._cache[key]

    def _posteriors_of_both(self, teacher: System | None, student: System) -> tuple[SystemPosteriors, SystemPosteriors]:
        """Both posteriors in the student's vocabulary on its frames.

        Raises:
            EvaluationError: there is no teacher, or one of the two has no posteriors, or they cannot be compared.
        """
        if teacher is None or teacher.key == student.key:
            raise EvaluationError(NO_TEACHER if teacher is None else IS_TEACHER)
        of_teacher, of_student = posteriors_of(teacher), posteriors_of(student)
        if of_teacher is None or of_student is None:
            raise EvaluationError(TEXT_ONLY, where=teacher.key if of_teacher is None else student.key)
        return bridged_to(of_teacher, of_student, self.bridge), of_student

    def _stability(self, system: System) -> dict[str, Any]:
        recognizer: Any = system.recognizer
        if not can_stream(recognizer):
            return {"stability": None, "stability_reason": "it does not stream"}
        return {"stability": measure_stability(recognizer, self.waveforms).plain()}

    def _silence(self, system: System) -> dict[str, Any]:
        seconds = self.settings.silence_seconds
        if not seconds:
            return {"trailing_silence": None, "trailing_silence_reason": "evaluate.silence_seconds is 0"}
        found = measure_trailing_silence(system.recognizer, self.waveforms, seconds, self.settings.normalizer)
        return {"trailing_silence": found}


def measure_set(
    systems: Sequence[System],
    teachers: Mapping[str, str],
    sample: Sample,
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Measurements of one set: the entries of `Measurements.systems` and of `Measurements.agreement`.

    Args:
        teachers: system's key → its teacher's (`teachers_of`).
        sample: of the set.
    """
    by_key = {system.key: system for system in systems}
    measured, agreement = {}, {}
    for key, system in by_key.items():
        measured[key] = sample.system(system)
        if key in teachers:
            delay, agreement[key] = sample.against(by_key[teachers[key]], system)
        else:
            is_teacher = key in teachers.values()
            delay = {"delay": None, "delay_reason": IS_TEACHER if is_teacher else NO_TEACHER}
        measured[key] |= delay
    return measured, agreement
