"""Words out of silence."""

import pytest
import torch

from asr_kd.evaluation.sample_measures import ROOM_DBFS, measure_trailing_silence, silence


class Talkative:
    """Writes a word for each second, and one more for digital silence."""

    def transcribe(self, waveforms):
        texts = []
        for waveform in waveforms:
            text = "One, two"
            if len(waveform) > 16_000 and not waveform[-100:].any():
                text += " uh uh"
            elif len(waveform) > 16_000:
                text = "one too"
            texts.append(text)
        return texts


def test_extra_lost_and_changed_words():
    found = measure_trailing_silence(Talkative(), [torch.ones(16_000)] * 3, 2.0, "librispeech")
    assert (found["seconds"], found["utterances"]) == (2.0, 3)
    assert found["digital"] == {"extra_words": 6, "lost_words": 0, "changed_words": 0, "utterances_with_extra": 3}
    assert found["room"] == {"extra_words": 0, "lost_words": 0, "changed_words": 3, "utterances_with_extra": 0}


def test_silence_is_silent():
    assert not silence("digital", 2.0).any()
    room = silence("room", 2.0)
    assert len(room) == 32_000
    assert 10 * torch.log10(room.square().mean()) == pytest.approx(ROOM_DBFS, abs=0.1)
    assert torch.equal(room, silence("room", 2.0))
    assert not torch.equal(room, silence("room", 2.0, 1))
