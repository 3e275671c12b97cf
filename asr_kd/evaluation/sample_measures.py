"""Measure systems on a sample of a test set: emission latency, frame agreement, partial results and trailing silence.

Partial results are measured by the unstable partial word ratio (Shangguan et al. 2020, "Analyzing the Quality and
Stability of a Streaming End-to-End On-Device Speech Transcriber"). A last word that merely grows is counted apart: a
model of letters cannot avoid it.

Shapes: S samples.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.frame_measures import frame_agreement, measure_delay
from asr_kd.evaluation.open_systems import bridged_to, posteriors_of
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import PACKET_SAMPLES, System, can_stream
from asr_kd.evaluation.system_outputs import spread
from asr_kd.features.perturb import generator_for, pink_noise
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.scoring.wer import ErrorCounts, align_words, count_edits, spaced
from asr_kd.targets.bridge import BridgeSettings
from asr_kd.text.normalize import ScoringNormalizer, normalize


def changes(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """Count the words of a partial result that the next one changed: those revised, and those (0 or 1) that only grew.

    Everything from the first word that differs on counts: the reader's eye has to go back there.
    """
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    changed = len(before) - same
    if changed == 1 and same < len(after) and after[same].startswith(before[same]):
        return 0, 1
    return changed, 0


def measure_stability(recognizer: Recognizer, waveforms: Sequence[Tensor]) -> dict[str, Any]:
    """Send each waveform [S] in packets of 100 ms and count the changes between successive partial results.

    Returns:
        Words of the final transcripts; words of partial results that the next one revised (replaced or removed), and
        last words that it lengthened, each time and per final word (None without one); utterances with a revision.
    """
    words = revised = grown = utterances_revised = 0
    for waveform in waveforms:
        stream = recognizer.stream()
        partials = [*(stream.accept(packet) for packet in waveform.split(PACKET_SAMPLES)), stream.final()]
        moves = [changes(before.split(), after.split()) for before, after in itertools.pairwise(partials)]
        words += len(partials[-1].split())
        revised += sum(count for count, _ in moves)
        grown += sum(count for _, count in moves)
        utterances_revised += any(count for count, _ in moves)
    return {
        "utterances": len(waveforms),
        "words": words,
        "revised_words": revised,
        "grown_words": grown,
        "revised_per_word": revised / words if words else None,
        "grown_per_word": grown / words if words else None,
        "utterances_revised": utterances_revised,
        "packet_ms": 1000 * PACKET_SAMPLES // SAMPLE_RATE,
    }


SilenceKind = Literal["digital", "room"]
"""Zeros, or pink noise at −60 dBFS, which is what a quiet room's microphone sends."""

KINDS: tuple[SilenceKind, ...] = ("digital", "room")
ROOM_DBFS = -60.0


SILENT_STREAMS = 10
"""Utterances whose streams are continued by silence: each costs as much compute as that silence."""


def measure_silence(
    transcribe: Callable[[list[Tensor]], list[str]],
    waveforms: Sequence[Tensor],
    seconds: float,
    normalizer: ScoringNormalizer,
) -> dict[str, Any]:
    """Count words inserted, deleted and changed when silence follows, as plain data for each kind of silence.

    The transcript with silence is compared with that without: `extra_words` are inserted into it, `lost_words` missing
    from it, `changed_words` others in the same place (a last word that was cut off before, for example).
    """
    before = [normalize(text, normalizer) for text in transcribe(list(waveforms))]
    found: dict[str, Any] = {"seconds": seconds, "utterances": len(waveforms)}
    for kind in KINDS:
        longer = [torch.cat([waveform, silence(kind, seconds, place)]) for place, waveform in enumerate(waveforms)]
        found[kind] = _compared(before, [normalize(text, normalizer) for text in transcribe(longer)])
    return found


def transcribe_live(recognizer: Any, waveforms: Sequence[Tensor]) -> list[str]:
    """The text of all utterances of a stream for each waveform [S].

    Every endpoint starts an utterance with new text and new state, so behind speech the model also begins in silence.
    """
    texts = []
    for waveform in waveforms:
        stream = recognizer.stream(cut_at_endpoints=True)
        for packet in waveform.split(PACKET_SAMPLES):
            stream.accept(packet)
        last = stream.final()
        texts.append(" ".join([*(utterance.text for utterance in stream.take_utterances()), last]))
    return texts


def silence(kind: SilenceKind, seconds: float, number: int = 0) -> Tensor:
    """Silence [S]; `number` selects the room noise."""
    samples = round(seconds * SAMPLE_RATE)
    if kind == "digital":
        return torch.zeros(samples)
    return 10 ** (ROOM_DBFS / 20) * pink_noise(samples, generator_for("trailing silence", number))


def _compared(before: Sequence[str], after: Sequence[str]) -> dict[str, int]:
    alignments = align_words([spaced(text) for text in before], [spaced(text) for text in after])
    edits = sum((count_edits(alignment) for alignment in alignments), ErrorCounts())
    return {
        "extra_words": edits.insertions,
        "lost_words": edits.deletions,
        "changed_words": edits.substitutions,
        "utterances_with_extra": sum(any(edit.kind == "insert" for edit in alignment) for alignment in alignments),
    }


NO_TEACHER = "no teacher is among the systems"
IS_TEACHER = "it is the teacher"
TEXT_ONLY = "it gives text, not posteriors"


class Sample:
    """A sample of a test set's utterances, read once, with the measurements on it.

    Args:
        utterances: that every system was scored on; `settings.sample_utterances` of them are taken.
        bridge: how a teacher's frames and symbols become the student's; None is the default.
    """

    def __init__(
        self, utterances: Sequence[Utterance], settings: EvaluationSettings, bridge: BridgeSettings | None = None
    ) -> None:
        sample = spread(utterances, settings.sample_utterances)
        self.references = [utterance.text or "" for utterance in sample]
        self.waveforms = [read_utterance(utterance) for utterance in sample]
        self.settings, self.bridge = settings, bridge
        self._log_probs: dict[tuple[str, str], list[Tensor]] = {}  # [T, V] of every waveform

    def system(self, system: System) -> dict[str, Any]:
        """Stability and trailing silence of one system."""
        recognizer: Any = system.recognizer
        settings, normalizer = self.settings, self.settings.normalizer
        missing = None if can_stream(recognizer) else "it does not stream"
        found = _measured("stability", missing, lambda: measure_stability(recognizer, self.waveforms))
        seconds, stream_seconds = settings.silence_seconds, settings.stream_silence_seconds
        if not seconds:
            return {**found, "trailing_silence": None, "trailing_silence_reason": "evaluate.silence_seconds is 0"}
        found["trailing_silence"] = measure_silence(recognizer.transcribe, self.waveforms, seconds, normalizer)
        if missing is None and not stream_seconds:
            missing = "evaluate.stream_silence_seconds is 0"
        step = max(len(self.waveforms) // SILENT_STREAMS, 1)  # from the shortest to the longest
        some = self.waveforms[::step][:SILENT_STREAMS]
        silent = _measured(
            "silent_streams",
            missing,
            lambda: measure_silence(partial(transcribe_live, recognizer), some, stream_seconds, normalizer),
        )
        return found | silent

    def against(self, teacher: System | None, student: System) -> tuple[dict[str, Any], dict[str, Any]]:
        """A student's delay, and the agreement of its frames with the teacher's, as plain data or with a reason."""
        try:
            if teacher is None or teacher.key == student.key:
                raise EvaluationError(NO_TEACHER if teacher is None else IS_TEACHER)
            of_teacher, own = posteriors_of(teacher), posteriors_of(student)
            if of_teacher is None or own is None:
                raise EvaluationError(TEXT_ONLY, where=teacher.key if of_teacher is None else student.key)
            reference = bridged_to(of_teacher, own, self.bridge)
        except EvaluationError as error:
            return {"delay": None, "delay_reason": str(error)}, {"frame_kl": None, "frame_kl_reason": str(error)}
        bridged = (teacher.key, reference.vocabulary.sha256)
        if bridged not in self._log_probs:  # computed once for all students of a teacher
            self._log_probs[bridged] = [reference.log_probs(waveform) for waveform in self.waveforms]
        pairs = list(zip(self._log_probs[bridged], map(own.log_probs, self.waveforms), strict=True))
        delay = measure_delay(self.references, reference, own, pairs)
        return {"delay": {"against": teacher.key, **delay}}, frame_agreement(pairs, own.vocabulary.blank_id)


def _measured(name: str, missing: str | None, measure: Callable[[], Any]) -> dict[str, Any]:
    """A measurement as plain data, or the reason why it is missing."""
    return {name: measure()} if missing is None else {name: None, f"{name}_reason": missing}


def measure_set(entry: dict[str, Any], systems: Sequence[System], teachers: Mapping[str, str], sample: Sample) -> None:
    """Add the measurements of each system, and the agreement of its frames with its teacher's, to a set's entry.

    Args:
        entry: of the set in results.json, see `system_outputs.score_set`.
        teachers: system's key → its teacher's.
    """
    by_key = {system.key: system for system in systems}
    for key, system in by_key.items():
        entry[key] |= sample.system(system)
        if key in teachers:
            delay, frames = sample.against(by_key[teachers[key]], system)
            entry["agreement"].setdefault(key, {}).update(frames)
        else:
            is_teacher = key in teachers.values()
            delay = {"delay": None, "delay_reason": IS_TEACHER if is_teacher else NO_TEACHER}
        entry[key] |= delay
