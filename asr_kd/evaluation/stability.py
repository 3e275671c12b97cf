"""Stability of partial results, and words that a system adds in silence after the speech.

Partial results are measured by the unstable partial word ratio (Shangguan et al. 2020, "Analyzing the Quality and
Stability of a Streaming End-to-End On-Device Speech Transcriber"). A last word that merely grows is counted apart: a
model of letters cannot avoid it.

Shapes: S samples.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.evaluation.system import Transcriber
from asr_kd.features.perturb import generator_for, pink_noise
from asr_kd.scoring.alignment import align_words
from asr_kd.text.normalize import ScoringNormalizer, normalize

PACKET_SAMPLES = SAMPLE_RATE // 10
"""Samples of a packet: 100 ms, as clients send."""


class Stream(Protocol):
    """A recognizer of one stream."""

    def accept(self, samples: Tensor) -> str:
        """The next packet [S] → the transcript so far."""

    def final(self) -> str:
        """The whole transcript."""


class Streams(Protocol):
    """Opens streams."""

    def stream(self) -> Stream:
        """Return a new stream."""


@dataclass
class Stability:
    """Counts over utterances."""

    utterances: int = 0
    words: int = 0
    """In the final transcripts."""
    revised: int = 0
    """Words of partial results that the next one replaced or removed, counted each time."""
    grown: int = 0
    """Last words of partial results that the next one lengthened."""
    utterances_revised: int = 0

    def add(self, partials: Sequence[str]) -> None:
        """Count the partial results of an utterance, in order; the last one is the final transcript."""
        revised = grown = 0
        for before, after in itertools.pairwise(partials):
            changed, longer = changes(before.split(), after.split())
            revised, grown = revised + changed, grown + longer
        self.utterances += 1
        self.words += len(partials[-1].split()) if partials else 0
        self.revised += revised
        self.grown += grown
        self.utterances_revised += revised > 0

    def plain(self) -> dict[str, Any]:
        """Plain data: the counts, and each count per final word (None without a final word)."""
        return {
            "utterances": self.utterances,
            "words": self.words,
            "revised_words": self.revised,
            "grown_words": self.grown,
            "revised_per_word": self.revised / self.words if self.words else None,
            "grown_per_word": self.grown / self.words if self.words else None,
            "utterances_revised": self.utterances_revised,
            "packet_ms": 1000 * PACKET_SAMPLES // SAMPLE_RATE,
        }


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


def measure_stability(recognizer: Streams, waveforms: Iterable[Tensor]) -> Stability:
    """Send each waveform [S] in packets of 100 ms and count the changes between successive partial results."""
    found = Stability()
    for waveform in waveforms:
        stream = recognizer.stream()
        shown = [stream.accept(packet) for packet in waveform.split(PACKET_SAMPLES)]
        found.add([*shown, stream.final()])
    return found


Silence = Literal["digital", "room"]
"""Zeros, or pink noise at −60 dBFS, which is what a quiet room's microphone sends."""

KINDS: tuple[Silence, ...] = ("digital", "room")
ROOM_DBFS = -60.0


def measure_trailing_silence(
    recognizer: Transcriber, waveforms: Sequence[Tensor], seconds: float, normalizer: ScoringNormalizer
) -> dict[str, Any]:
    """Count words inserted, deleted and changed when silence follows, as plain data for each kind of silence.

    The transcript with silence is compared with that without: `extra_words` are inserted into it, `lost_words` missing
    from it, `changed_words` others in the same place (a last word that was cut off before, for example).

    Args:
        recognizer: any.
        waveforms: [S] each.
        seconds: of silence.
        normalizer: applied to both transcripts.
    """
    before = [normalize(text, normalizer) for text in recognizer.transcribe(list(waveforms))]
    found: dict[str, Any] = {"seconds": seconds, "utterances": len(waveforms)}
    for kind in KINDS:
        longer = [torch.cat([waveform, silence(kind, seconds, place)]) for place, waveform in enumerate(waveforms)]
        after = [normalize(text, normalizer) for text in recognizer.transcribe(longer)]
        found[kind] = _compared(before, after)
    return found


def silence(kind: Silence, seconds: float, number: int = 0) -> Tensor:
    """Silence [S]; `number` selects the room noise."""
    samples = round(seconds * SAMPLE_RATE)
    if kind == "digital":
        return torch.zeros(samples)
    return 10 ** (ROOM_DBFS / 20) * pink_noise(samples, generator_for("trailing silence", number))


def _compared(before: Sequence[str], after: Sequence[str]) -> dict[str, int]:
    lengths = {"insert": 0, "delete": 0, "substitute": 0}
    utterances = 0
    for alignment in align_words([_spaced(text) for text in before], [_spaced(text) for text in after]):
        inserted = sum(edit.length for edit in alignment if edit.kind == "insert")
        utterances += inserted > 0
        for edit in alignment:
            if edit.kind != "equal":
                lengths[edit.kind] += edit.length
    return {
        "extra_words": lengths["insert"],
        "lost_words": lengths["delete"],
        "changed_words": lengths["substitute"],
        "utterances_with_extra": utterances,
    }


def _spaced(text: str) -> str:
    return " ".join(text.split())
