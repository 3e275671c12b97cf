"""Evidence of an utterance: audio that can be decoded, pictures, and posteriors that match the transcript."""

import base64
import io
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.open_systems import open_system
from asr_kd.evaluation.report.evidence import (
    envelope,
    evidence_of,
    gather_evidence,
    sound,
    spectrogram,
    token_posteriors,
)
from asr_kd.evaluation.settings import ReportSettings
from asr_kd.evaluation.system import System
from tests.helpers.tiny_models import VOCABULARY, noise_speech, save_tiny_model


def content(uri: str) -> io.BytesIO:
    return io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))


def test_sound_can_be_decoded_again():
    tone = 0.5 * torch.sin(torch.arange(16_000) * 2 * torch.pi * 440 / 16_000)
    uri = sound(tone)
    samples, rate = soundfile.read(content(uri))
    assert uri.startswith(("data:audio/mpeg;base64,", "data:audio/flac;base64,"))
    assert rate == 16_000
    assert abs(len(samples) - 16_000) <= 3 * 1152
    assert np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples) == pytest.approx(440, abs=5)
    assert len(uri) < 32_000  # 16 bits a sample would be 43,000


def test_a_tone_is_a_line_in_the_spectrogram():
    picture = np.asarray(Image.open(content(spectrogram(0.5 * torch.sin(torch.arange(16_000) * 2.4)))).convert("L"))
    assert picture.shape == (80, 101)  # low at the bottom, 10 ms a column
    brightest = picture[:, 10:90].mean(axis=1).argmax()
    assert brightest < 20  # 6.1 of 8 kHz, on a mel scale near the top
    assert picture[60:, 10:90].mean() < 60


@pytest.mark.parametrize("samples", [0, 1, 7, 1_000, 16_001])
def test_the_envelope_reaches_its_loudest(samples):
    found = envelope(torch.linspace(0, -0.25, samples), 100)
    assert len(found) == min(samples, 100)
    assert found == sorted(found)
    assert max(found, default=0) == (100 if samples > 1 else 0)


@pytest.mark.parametrize("streaming", [False, True])
def test_posteriors_spell_what_the_system_decodes(tmp_path, streaming):
    system = open_system("s", "other", save_tiny_model(tmp_path / "m", streaming=streaming))
    waveform = noise_speech(2.0)
    found = token_posteriors(system, waveform)
    spikes = list(zip(found["spikes"][::3], found["spikes"][1::3], found["spikes"][2::3], strict=True))
    assert [frame for frame, _, _ in spikes] == sorted(frame for frame, _, _ in spikes)
    assert "<blk>" not in found["symbols"]
    likely = {frame: found["symbols"][symbol] for frame, symbol, percent in spikes if percent > 50}
    frames = sorted(likely)
    tokens = [likely[frame] for frame in frames]
    new = [not (b - a == 1 and x == y) for (a, b), (x, y) in zip(pairwise(frames), pairwise(tokens), strict=True)]
    emitted = [token for token, fresh in zip(tokens, [True, *new], strict=True) if fresh]
    decoded = system.recognizer.hypotheses([waveform])[0][0]
    sure = [VOCABULARY.symbols[token] for token in decoded.tokens]
    assert len(sure) > 3
    assert len(emitted) >= len(sure) / 2
    assert all(token in sure for token in emitted)
    assert (found["shift_ms"], found["offset_ms"]) == (40, 35)


def test_a_system_that_writes_text_only_is_shown_without_posteriors(stored):
    found = evidence_of("dev", "a", noise_speech(0.5), [System("s", "other", stored())], audio=False)
    assert (found["posteriors"], found["audio"], found["seconds"]) == ({}, None, 0.5)


def test_the_number_gathered_is_that_of_the_settings(tmp_path, utterances, stored, settings):
    system = System("t", "teacher", stored({"ann-1": "one"}))
    settings = settings.model_copy(update={"report": ReportSettings(utterances=2)})
    results = evaluate_systems([system], {"dev": utterances}, settings, tmp_path / "report")
    found = gather_evidence(results, [system], {"dev": utterances}, settings.report)
    assert [item["id"] for item in found] == ["ann-1", "bob-1"]  # the worst, and the longest right one
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8").count("data:audio/") == 2
    without_audio = ReportSettings(utterances=1, audio=False)
    assert [item["audio"] for item in gather_evidence(results, [system], {"dev": utterances}, without_audio)] == [None]
    assert gather_evidence(results, [system], {"dev": utterances}, ReportSettings(utterances=0)) == []
