"""Augmentation: speeds change the length, masks stay inside, and a seed decides everything."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.features.augment import Augmentation, SpecAugment, spec_augment, speed_perturb

FILL = torch.full((80,), -1.0)


def augment(features: torch.Tensor, lens: torch.Tensor, settings: SpecAugment, seed: int = 0) -> torch.Tensor:
    return spec_augment(features, lens, FILL, settings, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_speed_divides_the_length(factor):
    waveform = torch.randn(16_000)
    assert abs(len(speed_perturb(waveform, factor)) - 16_000 / factor) <= 1


def test_speed_moves_a_tone():
    time = torch.arange(16_000) / 16_000
    faster = speed_perturb(torch.sin(2 * torch.pi * 1_000 * time), 1.1)
    spectrum = torch.fft.rfft(faster).abs()
    peak_hz = spectrum.argmax() * 16_000 / len(faster)
    assert abs(peak_hz - 1_100) < 5


@given(seed=st.integers(0, 1_000), length=st.integers(1, 200))
def test_masks_lie_inside_the_utterance_and_the_rest_is_untouched(seed, length):
    features = torch.randn(2, 200, 80)
    lens = torch.tensor([200, length])
    masked = augment(features, lens, SpecAugment(frequency_masks=0, time_share=0.2, time_width_frames=50), seed)
    assert masked[1, length:].equal(features[1, length:])
    changed = (masked != features).any(-1)
    assert masked[changed].eq(-1.0).all()
    assert changed[1].sum() <= 5 * 0.2 * length


def test_some_mask_is_drawn_and_the_seed_decides_which():
    features, lens = torch.randn(4, 300, 80), torch.full((4,), 300)
    first, again, other = (augment(features, lens, SpecAugment(), seed) for seed in (1, 1, 2))
    assert (first != features).any()
    assert first.equal(again)
    assert not first.equal(other)
    masks = first != features
    assert not masks[0].equal(masks[1]), "utterances of a batch share their masks"


def test_no_masks_change_nothing():
    features = torch.randn(1, 50, 80)
    assert augment(features, torch.tensor([50]), SpecAugment(frequency_masks=0, time_masks=0)).equal(features)


@pytest.mark.parametrize("speed", [1.004, 0.996])
def test_a_speed_that_would_change_nothing_is_refused(speed):
    waveform = torch.randn(16_000)
    assert speed_perturb(waveform, speed) is waveform or len(speed_perturb(waveform, speed)) == len(waveform)
    with pytest.raises(ValueError, match=r"within 0\.5 % of 1"):
        Augmentation(speeds=(0.9, 1.0, speed))
    assert Augmentation(speeds=(0.99, 1.0, 1.01)).speeds == (0.99, 1.0, 1.01)
