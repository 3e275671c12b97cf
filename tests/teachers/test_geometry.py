"""Frames counted and placed as torch's own layers do it."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from asr_kd.teachers.frame_geometry import FrameGeometry, Layer, strided

STACKS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=4).map(
    lambda rows: tuple(Layer(kernel, stride, min(padding, kernel // 2)) for kernel, stride, padding in rows)
)


def stack(layers: tuple[Layer, ...]) -> nn.Sequential:
    model = nn.Sequential(*(nn.Conv1d(1, 1, k, s, p, bias=False) for k, s, p in layers))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    return model.double()


@given(layers=STACKS, num_samples=st.integers(1, 400))
def test_counts_what_convolutions_give(layers, num_samples):
    frames = FrameGeometry(layers).frames(num_samples)
    if frames:
        assert stack(layers)(torch.zeros(1, 1, num_samples, dtype=torch.float64)).shape[-1] == frames
    else:
        counts = [num_samples]
        for kernel, stride, padding in layers:
            counts.append((counts[-1] + 2 * padding - kernel) // stride + 1)
        assert min(counts) <= 0


@given(layers=STACKS)
def test_a_frame_lies_at_the_middle_of_the_samples_it_sees(layers):
    geometry = FrameGeometry(layers)
    samples = torch.zeros(1, 1, 4000, dtype=torch.float64, requires_grad=True)
    output = stack(layers)(samples)[0, 0]
    frame = len(output) // 2
    (seen,) = torch.autograd.grad(output[frame], samples)
    positions = torch.arange(4000, dtype=torch.float64) + 0.5
    centre = float((seen[0, 0] * positions).sum() / seen.sum())
    assert abs(centre / 16 - (geometry.offset_ms + frame * geometry.shift_ms)) < 1e-6


@given(layers=STACKS, num_samples=st.integers(1, 2000), more=st.integers(1, 5))
def test_one_stride_more_of_audio_is_one_frame_more(layers, num_samples, more):
    """What windows rely on."""
    geometry = FrameGeometry(layers)
    frames = geometry.frames(num_samples)
    if frames:
        assert geometry.frames(num_samples + more * geometry.stride_samples) == frames + more


def test_wav2vec2s_own_numbers():
    geometry = FrameGeometry(strided((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)))
    assert (geometry.shift_ms, geometry.offset_ms) == (20.0, 12.5)
    assert [geometry.frames(n) for n in (399, 400, 719, 720, 16000)] == [0, 1, 1, 2, 49]
