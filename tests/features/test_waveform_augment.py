"""What happens to a training utterance's sound: how loud noise is, how often what happens, and that nothing moves."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.features.augment import Perturbation, augment_waveform
from tests.helpers.tiny_models import noise_speech

STILL = {"snr_db": None, "room_share": 0.0, "telephone_share": 0.0, "gain_db": 0.0}
SPEECH = noise_speech(0.5, seed=1) * 0.1


def drawn(seed: int, voices=lambda generator: [], waveform=SPEECH, **changes) -> torch.Tensor:
    chosen = Perturbation(**{**STILL, **changes})
    return augment_waveform(waveform, chosen, torch.Generator().manual_seed(seed), voices)


def test_nothing_happens_when_nothing_is_asked_for():
    assert drawn(0).equal(SPEECH)


@given(seed=st.integers(0, 2**62))
@settings(max_examples=20)
def test_noise_is_as_loud_as_asked_for(seed):
    voices = lambda generator: [noise_speech(0.2, seed=5)]  # noqa: E731
    noise = drawn(seed, voices, snr_db=(5.0, 15.0)) - SPEECH
    snr_db = 10 * math.log10(float(SPEECH.square().sum() / noise.square().sum()))
    assert 5.0 - 0.01 <= snr_db <= 15.0 + 0.01


def test_half_of_the_noise_is_babble():
    asked = []

    def voices(generator):
        asked.append(float(torch.rand((), generator=generator)))
        return [noise_speech(0.1, seed=len(asked))]

    for seed in range(200):
        drawn(seed, voices, snr_db=(10.0, 10.0), waveform=SPEECH[:400])
    assert 70 <= len(asked) <= 130
    assert len(set(asked)) == len(asked)


def test_gain_is_within_its_range_and_nothing_else_changes():
    loudest = int(SPEECH.abs().argmax())
    gains = [float(drawn(seed, gain_db=6.0)[loudest] / SPEECH[loudest]) for seed in range(50)]
    gains_db = [20 * math.log10(gain) for gain in gains]
    assert all(abs(gain) <= 6.0 for gain in gains_db)
    assert min(gains_db) < -3.0
    assert max(gains_db) > 3.0
    torch.testing.assert_close(drawn(3, gain_db=6.0), SPEECH * gains[3])


@given(seed=st.integers(0, 2**62))
@settings(max_examples=8)
def test_a_sound_stays_where_it_is_whatever_happens(seed):
    click = torch.zeros(4_000)
    click[1_600] = 0.9
    heard = drawn(seed, snr_db=(20.0, 20.0), room_share=0.5, telephone_share=0.5, gain_db=3.0, waveform=click)
    assert len(heard) == len(click)
    assert heard.isfinite().all()
    assert abs(int(heard.abs().argmax()) - 1_600) <= 16  # a millisecond


def test_shares_of_rooms_and_telephones():
    changed = [not drawn(seed, room_share=0.3, waveform=SPEECH[:400]).equal(SPEECH[:400]) for seed in range(300)]
    assert 60 <= sum(changed) <= 120
    band = [not drawn(seed, telephone_share=0.3, waveform=SPEECH[:400]).equal(SPEECH[:400]) for seed in range(300)]
    assert 60 <= sum(band) <= 120


def test_the_generator_decides():
    everything = {"snr_db": (5.0, 20.0), "room_share": 0.5, "telephone_share": 0.5, "gain_db": 6.0}
    assert drawn(7, **everything).equal(drawn(7, **everything))
    assert not drawn(7, **everything).equal(drawn(8, **everything))


def test_a_range_that_is_none_is_refused():
    for wrong in ((20.0, 10.0), (-30.0, 10.0), (0.0, 90.0)):
        with pytest.raises(ValueError, match="the lower first, from -20 to 60"):
            Perturbation(snr_db=wrong)
