"""A tiny test set on disk, and recognizers with stored transcripts."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from tests.helpers.evaluations import TEXTS


class StoredTranscripts:
    """Identifies utterances by their number of samples, which are all different."""

    def __init__(self, texts: Mapping[int, str]) -> None:
        self.texts = texts
        self.batches: list[int] = []

    def transcribe(self, waveforms: list[Tensor]) -> list[str]:
        self.batches.append(len(waveforms))
        return [self.texts[len(waveform)] for waveform in waveforms]


@pytest.fixture
def utterances(tmp_path: Path) -> list[Utterance]:
    """Six utterances of three speakers, 0.5 to 1 second; one is empty."""
    rng = np.random.default_rng(0)
    made = []
    for position, (utterance_id, text) in enumerate(TEXTS.items()):
        samples = 8_000 + 1_600 * position
        path = tmp_path / "audio" / f"{utterance_id}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, rng.uniform(-0.1, 0.1, samples), 16_000)
        made.append(Utterance(utterance_id, path, samples / 16_000, text, utterance_id.split("-")[0]))
    return made


@pytest.fixture
def stored(utterances: list[Utterance]) -> Callable[..., StoredTranscripts]:
    """Make a recognizer that is right except for the given texts: stored({"ann-1": "one two"})."""

    def make(wrong: Mapping[str, str] | None = None) -> StoredTranscripts:
        texts = {utterance.id: utterance.text or "" for utterance in utterances} | dict(wrong or {})
        return StoredTranscripts({round(utterance.duration * 16_000): texts[utterance.id] for utterance in utterances})

    return make
