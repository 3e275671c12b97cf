"""The padding rule: nothing of an utterance is lost, and nothing more than needed is added."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.features.fbank import num_frames
from asr_kd.models.layers import output_lens
from asr_kd.models.settings import Context
from asr_kd.runtime.backend import num_chunks, padded_num_samples


@given(samples=st.integers(1, 400_000), chunk=st.integers(1, 40), tail_ms=st.integers(0, 2_000))
def test_whole_chunks_that_hold_the_audio_and_its_tail_and_no_chunk_too_many(samples, chunk, tail_ms):
    padded = padded_num_samples(samples, Context(chunk, 8), tail_ms)
    chunks = num_chunks(samples, chunk, tail_ms)
    frames = num_frames(padded)
    assert frames == 4 * chunk * chunks + 3
    assert int(output_lens(torch.tensor(frames))) == chunk * chunks
    heard = num_frames(samples + tail_ms * 16)
    assert 4 * chunk * (chunks - 1) < max(heard, 1) <= 4 * chunk * chunks
    assert padded >= samples + 160  # more than Kaldi's reflection at the end reads


@pytest.mark.parametrize(
    ("samples", "tail_ms", "chunks"),
    [(0, 320, 0), (1, 0, 1), (1, 320, 1), (5_120, 0, 1), (5_120, 320, 2), (5_200, 320, 3), (10_240, 320, 3)],
)
def test_known_answers_at_320_ms_chunks(samples, tail_ms, chunks):
    assert num_chunks(samples, 8, tail_ms) == chunks
    assert padded_num_samples(samples, Context(8, 64), tail_ms) == (160 * (32 * chunks + 3) if chunks else 0)
