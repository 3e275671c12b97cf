"""Batches have one of a few lengths, and a longer batch changes no result."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings
from asr_kd.training.batch import Example, collate_batch, padded_length


def test_known_lengths() -> None:
    assert [padded_length(frames) for frames in (0, 1, 4, 5, 64, 65, 129, 500, 513, 1000, 1650)] == [
        *(0, 4, 4, 8, 64, 68, 136, 512, 544, 1024, 1664)
    ]
    assert len({padded_length(frames) for frames in range(513, 1025)}) == 16


@given(st.integers(0, 100_000))
def test_a_batch_is_longer_by_a_sixteenth_at_most(frames: int) -> None:
    padded = padded_length(frames)
    assert frames <= padded <= max(frames * 17 / 16, frames + 3)
    assert padded_length(padded) == padded


def test_a_longer_batch_changes_no_result() -> None:
    torch.manual_seed(0)
    examples = [
        Example(id=name, features=torch.randn(frames, 80), audio_frames=frames, tokens=[1, 2], targets=None)
        for name, frames in (("a", 201), ("b", 150))
    ]
    batch = collate_batch(examples)
    assert batch.features.shape == (2, 208, 80)
    assert not batch.features[0, 201:].any()
    assert not batch.features[1, 150:].any()
    model = Conformer(ConformerSettings.model_validate({"size": "tiny"}), vocab_size=29).eval()
    with torch.no_grad():
        padded = model(batch.features, batch.feature_lens)
        shortest = model(batch.features[:, :201], batch.feature_lens)
    assert torch.equal(padded.lens, shortest.lens)
    for row, frames in enumerate(shortest.lens):
        torch.testing.assert_close(padded.log_probs[row, :frames], shortest.log_probs[row, :frames])
