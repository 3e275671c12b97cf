"""Silence and another level in features equal those of the changed waveform."""

import math

import pytest
import torch

from asr_kd.features.fbank import SILENCE_VALUE, fbank, num_frames
from asr_kd.features.perturb import change_gain
from asr_kd.features.silence import LOG_MEL, NOISE_DBFS, quietest
from asr_kd.teachers.encoder_ctc import WAVEFORM_BLOCKS
from tests.helpers.tiny_models import noise_speech

NOISE = torch.randn(16_000, generator=torch.Generator().manual_seed(1))
SPEECH = (noise_speech(1.0, seed=3) + 1e-3 * NOISE)[:15_950]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def surrounded(kind, waveform, lead, tail, gain=0.0, generator=None):
    features = kind.compute(torch.nn.functional.pad(waveform, (0, 160 * tail)))
    return kind.surround(features, num_frames(len(waveform)), kind.front(waveform), lead, gain, generator)


@pytest.mark.parametrize("kind", [LOG_MEL, WAVEFORM_BLOCKS])
@pytest.mark.parametrize("samples", [15_950, 400, 100])
@pytest.mark.parametrize("lead", [4, 8, 40])
def test_zeros_in_front_are_those_of_the_padded_waveform(kind, samples, lead):
    waveform = SPEECH[:samples]
    expected = kind.compute(torch.nn.functional.pad(waveform, (160 * lead, 160 * 6)))
    torch.testing.assert_close(surrounded(kind, waveform, lead, 6), expected, atol=2e-4, rtol=0)


def test_nothing_drawn_is_nothing_changed():
    features = fbank(SPEECH)
    assert LOG_MEL.surround(features, len(features), LOG_MEL.front(SPEECH), 0, 0.0, None) is features
    assert LOG_MEL.surround(features, len(features), LOG_MEL.front(SPEECH), 0, 0.0, seeded()) is features


@pytest.mark.parametrize("gain_db", [-40.0, -20.0, 6.0])
def test_a_gain_is_that_of_the_waveform(gain_db):
    quiet = 0.4 / SPEECH.abs().max() * SPEECH
    expected = fbank(change_gain(quiet, gain_db))
    above = fbank(quiet) > SILENCE_VALUE  # how far below the floor a value was is not in the features
    found = LOG_MEL.amplify(fbank(quiet), gain_db)
    torch.testing.assert_close(found[above], expected[above], atol=1e-3, rtol=0)
    blocks = WAVEFORM_BLOCKS.amplify(WAVEFORM_BLOCKS.compute(quiet), gain_db)
    assert torch.equal(blocks, WAVEFORM_BLOCKS.compute(change_gain(quiet, gain_db)))


def test_digital_silence_has_no_level_and_adds_nothing():
    silence = torch.full((3, 80), SILENCE_VALUE)
    assert torch.equal(LOG_MEL.mix(silence, silence), silence)
    assert torch.equal(LOG_MEL.mix(fbank(SPEECH)[:3], silence), fbank(SPEECH)[:3])
    assert torch.equal(LOG_MEL.amplify(silence, 40.0), silence)
    assert torch.equal(LOG_MEL.amplify(fbank(1e-3 * SPEECH), -60.0).min(), torch.tensor(SILENCE_VALUE))


@pytest.mark.parametrize("kind", [LOG_MEL, WAVEFORM_BLOCKS])
def test_all_kinds_of_silence_leave_the_speech_and_are_drawn_by_the_seed(kind):
    plain = surrounded(kind, SPEECH, 12, 20)
    speech = slice(12, 12 + num_frames(len(SPEECH)))
    found = [surrounded(kind, SPEECH, 12, 20, generator=seeded(seed)) for seed in range(24)]
    assert all(torch.equal(item[speech], plain[speech]) and item.isfinite().all() for item in found)
    zeros = sum(torch.equal(item, plain) for item in found)
    assert 2 <= zeros <= 14
    assert len({float(item[:11].mean()) for item in found}) == 25 - zeros  # no two of the others are alike
    assert torch.equal(found[5], surrounded(kind, SPEECH, 12, 20, generator=seeded(5)))


def test_noise_has_its_level():
    levels = []
    for seed in range(30):
        noise = WAVEFORM_BLOCKS.noise(300, seeded(seed))
        levels.append(10 * math.log10(float(noise.square().mean())))
    low, high = NOISE_DBFS
    assert low - 3 <= min(levels) < low + 12
    assert high - 12 < max(levels) <= high + 3


def test_the_background_is_made_of_the_quietest_frames():
    features = torch.arange(100.0)[:, None].expand(100, 80)[torch.randperm(100, generator=seeded())]
    background = LOG_MEL.background(features, 500, seeded())
    assert set(background[:, 0].tolist()) == set(range(10))
    assert sorted(quietest(torch.tensor([3.0, 1.0, 2.0])).tolist()) == [0, 1, 2]
    assert torch.equal(LOG_MEL.background(features[:0], 3, seeded()), torch.full((3, 80), SILENCE_VALUE))
