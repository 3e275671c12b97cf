"""What a system makes of silence after the speech: words that nobody said.

Shapes: S samples.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.evaluation.systems import Recognizer
from asr_kd.features.perturb import generator_for, pink_noise
from asr_kd.scoring.alignment import align_words
from asr_kd.text.normalize import ScoringNormalizer, normalize

Silence = Literal["digital", "room"]
"""Zeros, or pink noise at −60 dBFS, which is what a quiet room's microphone sends."""

KINDS: tuple[Silence, ...] = ("digital", "room")
ROOM_DBFS = -60.0


def measure_trailing_silence(
    recognizer: Recognizer, waveforms: Sequence[Tensor], seconds: float, normalizer: ScoringNormalizer
) -> dict[str, Any]:
    """Words that appear, go and change when silence follows, as plain data for each kind of silence.

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
    """Silence [S]; `number` draws another room noise each."""
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
