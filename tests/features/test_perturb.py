"""Perturbed waveforms: decibels that are what they say, times that stay where they are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.features.perturb import (
    CONTAINERS,
    add_noise,
    babble,
    change_gain,
    generator_for,
    pink_noise,
    reverberate,
    room_response,
    stretch_of,
    telephone,
    through_codec,
)
from tests.helpers.tiny_models import noise_speech

SECOND = 16_000


def power_db(samples):
    return 10 * math.log10(float(samples.double().square().mean()))


def tone(hertz, seconds=1.0):
    return 0.3 * torch.sin(2 * torch.pi * hertz * torch.arange(round(seconds * SECOND)) / SECOND)


def band_db(samples, low, high):
    """Power of a band, decibels."""
    spectrum = torch.fft.rfft(samples.double()).abs().square()
    frequencies = torch.fft.rfftfreq(len(samples), 1 / SECOND)
    return 10 * math.log10(float(spectrum[(frequencies >= low) & (frequencies < high)].sum()))


def lag(heard, original, furthest=400):
    """Samples by which `heard` comes later: where the correlation is highest."""
    padded = torch.nn.functional.pad(heard.double(), (furthest, furthest))
    windows = padded.unfold(0, len(original), 1)
    return int((windows @ original.double()).argmax()) - furthest


def all_perturbed(waveform):
    random = generator_for("all")
    yield add_noise(waveform, pink_noise(len(waveform), random), 10)
    yield reverberate(waveform, room_response(0.3, random))
    yield telephone(waveform)
    yield change_gain(waveform, -6)
    yield from (through_codec(waveform, coding) for coding in CONTAINERS)


@settings(max_examples=25, deadline=None)
@given(st.floats(-10, 40), st.floats(1e-3, 0.9), st.integers(1, 3000))
def test_the_ratio_of_speech_to_noise_is_the_one_asked_for(snr_db, loudness, samples):
    waveform = loudness * tone(440, 1.0)[:samples] + 1e-3
    noise = torch.randn(samples, generator=torch.Generator().manual_seed(1))
    mixed = add_noise(waveform, noise, snr_db)
    found = power_db(waveform) - power_db(mixed.double() - waveform.double())
    assert found == pytest.approx(snr_db, abs=0.05)


def test_silence_stays_silence_and_lengths_must_fit():
    silence = torch.zeros(100)
    assert torch.equal(add_noise(silence, torch.ones(100), 10), silence)
    assert torch.equal(add_noise(torch.ones(100), silence, 10), torch.ones(100))
    with pytest.raises(ValueError, match=r"\(99,\) for a waveform of shape \(100,\)"):
        add_noise(silence, torch.ones(99), 10)


def test_pink_noise_falls_by_three_decibels_an_octave():
    noise = pink_noise(10 * SECOND, generator_for("pink"))
    assert power_db(noise) == pytest.approx(0, abs=0.01)
    # Octaves hold twice the bandwidth of the one below: at −3 dB an octave each has the same power.
    octaves = [band_db(noise, 125 * 2**n, 250 * 2**n) for n in range(5)]
    assert max(octaves) - min(octaves) < 1.0


def test_babble_is_its_voices_equally_loud():
    low, high = tone(200), 0.01 * tone(3000, 0.4)
    mixed = babble([low, high], 3 * SECOND, generator_for("babble"))
    assert (len(mixed), power_db(mixed)) == (3 * SECOND, pytest.approx(0, abs=0.01))
    assert band_db(mixed, 150, 250) == pytest.approx(band_db(mixed, 2900, 3100), abs=0.3)
    with pytest.raises(ValueError, match="at least one voice"):
        babble([], 10, generator_for("babble"))


def test_a_stretch_goes_round():
    recording = torch.arange(5.0)
    stretch = stretch_of(recording, 12, generator_for("x"))
    assert torch.equal(stretch[1:], (stretch[:-1] + 1) % 5)
    with pytest.raises(ValueError, match="without samples"):
        stretch_of(torch.zeros(0), 3, generator_for("x"))


@pytest.mark.parametrize(("seconds", "ratio_db"), [(0.3, 0.0), (0.8, 6.0)])
def test_a_room_rings_as_long_as_it_says(seconds, ratio_db):
    response = room_response(seconds, generator_for("room"), direct_to_reverberant_db=ratio_db)
    energy = response.double().square()
    assert float(energy.sum()) == pytest.approx(1, abs=1e-5)
    assert 10 * math.log10(float(energy[0] / energy[1:].sum())) == pytest.approx(ratio_db, abs=0.01)
    # Schroeder: the energy still to come falls on a line; its slope from −5 to −25 dB gives the time for 60.
    remaining = 10 * torch.log10(energy[40:].flip(0).cumsum(0).flip(0) / energy[40:].sum())
    begin, end = int((remaining > -5).sum()), int((remaining > -25).sum())
    assert 3 * (end - begin) / SECOND == pytest.approx(seconds, rel=0.1)


def test_a_response_of_one_sample_changes_nothing():
    waveform = noise_speech(0.5)
    assert torch.allclose(reverberate(waveform, torch.ones(1)), waveform, atol=1e-6)
    with pytest.raises(ValueError, match="more than 0"):
        room_response(0, generator_for("room"))


def test_the_telephone_passes_its_band_only():
    def loss(hertz):
        return power_db(tone(hertz)) - power_db(telephone(tone(hertz)))

    assert loss(1000) == pytest.approx(0, abs=0.5)
    assert loss(100) > 30
    assert loss(6000) > 30
    noise = 0.1 * torch.randn(SECOND, generator=torch.Generator().manual_seed(0))
    assert band_db(telephone(noise), 4100, 8000) < band_db(telephone(noise), 500, 3000) - 40


def test_gain_is_decibels_and_clips():
    waveform = tone(440)
    assert power_db(change_gain(waveform, -6)) == pytest.approx(power_db(waveform) - 6, abs=1e-3)
    assert float(change_gain(waveform, 40).abs().max()) == 1.0


@pytest.mark.parametrize("coding", CONTAINERS)
def test_a_codec_changes_samples_but_neither_length_nor_time(coding):
    waveform = noise_speech(1.23456)
    heard = through_codec(waveform, coding)
    assert (heard.shape, heard.dtype) == (waveform.shape, torch.float32)
    assert not torch.equal(heard, waveform)
    # Below a telephone's half rate they are the same sound at the same time.
    narrow = through_codec(waveform, "mu-law")
    assert abs(lag(heard, narrow)) <= 1
    correlation = torch.corrcoef(torch.stack([heard, narrow]))[0, 1]
    assert float(correlation) > 0.7


@pytest.mark.parametrize("samples", [0, 1, 7, 161, 4001])
def test_any_length_is_kept_and_nothing_is_nan(samples):
    waveform = noise_speech(1.0)[2000 : 2000 + samples]
    for heard in all_perturbed(waveform):
        assert heard.shape == waveform.shape
        assert bool(heard.isfinite().all())


def test_time_is_kept_to_a_millisecond():
    waveform = noise_speech(1.0)
    assert max(abs(lag(heard, waveform)) for heard in all_perturbed(waveform)) <= 16


def test_the_same_words_draw_the_same_numbers():
    def draw(*words):
        return torch.rand(3, generator=generator_for(*words)).tolist()

    assert draw("ann-1", "pink") == draw("ann-1", "pink")
    assert draw("ann-1", "pink") != draw("ann-2", "pink") != draw("ann", "1-pink")
