"""Long audio in windows: seams that cannot be told from no seams, on the same frames."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.teachers.frame_geometry import FrameGeometry, Layer
from asr_kd.teachers.windows import WindowedTeacher, plan_windows
from tests.helpers.tiny_teachers import SHORT_STRIDES, VIEW_FRAMES, near_sighted, save_transformers, waveforms

GRID = SHORT_STRIDES[0] * SHORT_STRIDES[1] * SHORT_STRIDES[2]
SEES_ENOUGH = 2 * (VIEW_FRAMES + 1)
"""Frames of overlap that give every frame all that it sees."""


@given(
    num_samples=st.integers(1, 400_000),
    window=st.integers(2, 200),
    overlap=st.integers(0, 99),
    grid=st.sampled_from([160, 320, 640]),
)
def test_windows_cover_the_audio_on_the_grid(num_samples, window, overlap, grid):
    overlap = min(overlap, (window - 1) // 2)
    windows = plan_windows(num_samples, window * grid, overlap * grid, grid)
    assert windows[0].start == 0
    assert windows[-1].stop == num_samples
    assert all(item.start % grid == 0 and 0 < item.stop - item.start <= window * grid for item in windows)
    for before, after in itertools.pairwise(windows):
        assert before.stop - after.start == overlap * grid
    assert len(windows) == 1 or windows[-1].stop - windows[-1].start > overlap * grid
    # As equal as the grid allows: nothing is lost by rounding but a grid step a window.
    lengths = [item.stop - item.start for item in windows[:-1]]
    assert not lengths or len(set(lengths)) == 1


@given(
    num_samples=st.integers(400, 60_000),
    window=st.integers(20, 80),
    overlap=st.integers(SEES_ENOUGH, SEES_ENOUGH + 5),
)
def test_where_frames_see_only_what_is_near_the_seams_are_exact(num_samples, window, overlap):
    overlap = min(overlap, (window - 1) // 2)
    teacher = near_sighted()
    windowed = WindowedTeacher(teacher, window * GRID / 16_000, overlap * GRID / 16_000)
    audio, lens = waveforms(num_samples)
    whole, pieces = teacher.log_probs(audio, lens), windowed.log_probs(audio, lens)
    assert pieces.lens.tolist() == whole.lens.tolist()
    torch.testing.assert_close(pieces.log_probs, whole.log_probs, atol=1e-5, rtol=0)


def test_too_little_overlap_shows_at_the_seams_only():
    """The test above can fail: without overlap the frames next to a seam differ, and no others."""
    teacher = near_sighted()
    audio, lens = waveforms(64_000)
    whole = teacher.log_probs(audio, lens).log_probs[0]
    pieces = WindowedTeacher(teacher, 1.0, 0.04).log_probs(audio, lens).log_probs[0]
    differing = ((pieces - whole).abs().amax(-1) > 1e-4).nonzero().flatten()
    starts = [item.start // GRID for item in plan_windows(64_000, 16_000, 640, GRID)[1:]]
    assert len(differing) >= len(starts) > 0
    assert all(min(abs(int(frame) - start) for start in starts) <= VIEW_FRAMES + 1 for frame in differing)


def test_short_and_long_audio_in_one_batch():
    teacher = near_sighted()
    windowed = WindowedTeacher(teacher, 1.0, 0.2)
    lengths = (8_000, 50_000, 16_000, 300, 16_001)
    audio, lens = waveforms(*lengths)
    batch = windowed.log_probs(audio, lens)
    assert batch.lens.tolist() == [teacher.geometry.frames(length) for length in lengths]
    for row, length in enumerate(lengths):
        alone = teacher.log_probs(audio[row : row + 1, :length], lens[row : row + 1])
        frames = int(alone.lens[0])
        torch.testing.assert_close(batch.log_probs[row, :frames], alone.log_probs[0, :frames], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["wav2vec2-base", "wav2vec2-bert", "parakeet"])
def test_as_many_frames_as_the_library_gives_for_the_whole(tmp_path, name):
    pytest.importorskip("transformers")
    from asr_kd.teachers.huggingface_ctc import open_huggingface

    save_transformers(name, tmp_path)
    teacher = open_huggingface(str(tmp_path))
    windowed = WindowedTeacher(teacher, 1.6, 0.32)
    for num_samples in (25_601, 40_000, 70_123):
        audio, lens = waveforms(num_samples)
        assert windowed.log_probs(audio, lens).lens.tolist() == teacher.log_probs(audio, lens).lens.tolist()


def test_a_window_off_the_grid_is_refused_with_a_good_one():
    with pytest.raises(RecipeError, match=r"window_seconds is 1\.01;.*frame shift of 20 ms, 1 for example"):
        WindowedTeacher(near_sighted(), 1.01, 0.2)
    with pytest.raises(RecipeError, match=r"overlap_seconds is 0\.21"):
        WindowedTeacher(near_sighted(), 1.0, 0.21)


def test_a_teacher_with_fewer_frames_than_its_grid_promises_is_refused():
    poor = dataclasses.replace(near_sighted(), geometry=FrameGeometry((Layer(12_000, 320),)))
    audio, lens = waveforms(40_000)
    with pytest.raises(CheckpointError, match="longer overlap_seconds"):
        WindowedTeacher(poor, 1.0, 0.2).log_probs(audio, lens)


def test_windows_are_part_of_the_identity():
    teacher = near_sighted()
    windowed = WindowedTeacher(teacher, 1.0, 0.2)
    assert windowed.name == teacher.name
    assert windowed.vocabulary == teacher.vocabulary
    assert windowed.features["window_samples"] == 16_000
    identities = {teacher.sha256, *(WindowedTeacher(teacher, 1.0, overlap).sha256 for overlap in (0.2, 0.4))}
    assert len(identities) == 3
    assert windowed.sha256 == WindowedTeacher(near_sighted(), 1.0, 0.2).sha256


def test_windows_without_overlap_lack_a_frame_at_each_seam_which_the_message_says():
    audio, lens = waveforms(16_000 * 9)
    with pytest.raises(CheckpointError, match="Use a longer overlap_seconds"):
        WindowedTeacher(near_sighted(), 2.0, 0.0).log_probs(audio, lens)
