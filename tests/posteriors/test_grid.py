"""Grids: cells by hand, against exact arithmetic, and what is refused."""

from fractions import Fraction
from math import floor, inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.posteriors.types import FrameGrid

WAV2VEC2, STUDENT = FrameGrid(20.0, 12.5), FrameGrid(40.0, 35.0)


def test_wav2vec2s_frames_on_the_students_by_hand():
    # Cells are [15, 55), [55, 95) …; centres 12.5, 32.5, 52.5, 72.5, 92.5, 112.5 …
    assert STUDENT.cells_of(WAV2VEC2, 6).tolist() == [-1, 0, 0, 1, 1, 2]
    # And back: 35 lies in [22.5, 42.5), the cell of frame 1.
    assert WAV2VEC2.cells_of(STUDENT, 4).tolist() == [1, 3, 5, 7]
    assert WAV2VEC2.centre_ms(2) == 52.5
    assert str(STUDENT) == "40 ms frames centred at 35 + 40 i ms"


def test_a_cell_holds_its_beginning_and_not_its_end():
    assert FrameGrid(40, 35).cells_of(FrameGrid(20, 15), 5).tolist() == [0, 0, 1, 1, 2]


def test_a_third_is_a_third():
    """In floating point, ties of such a grid fall on either side."""
    thirds = FrameGrid(100 / 3, 50 / 3)
    assert thirds.cells_of(FrameGrid(100.0, 0.0), 400).tolist() == [3 * i for i in range(400)]


@given(
    numerators=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    offsets=st.tuples(st.integers(-8, 30), st.integers(-8, 30)),
    num_frames=st.integers(0, 40),
)
def test_cells_agree_with_exact_arithmetic(numerators, offsets, num_frames):
    ours, theirs = (Fraction(10 * n, 3) for n in numerators)
    begin, other = (Fraction(5 * n, 2) for n in offsets)
    cells = FrameGrid(float(ours), float(begin)).cells_of(FrameGrid(float(theirs), float(other)), num_frames)
    assert cells.tolist() == [floor((other + j * theirs - begin) / ours + Fraction(1, 2)) for j in range(num_frames)]


@given(st.sampled_from([10.0, 20.0, 33.3, 40.0, 80.0]), st.floats(-50, 50))
def test_a_grids_own_frames_are_its_cells(shift_ms, offset_ms):
    grid = FrameGrid(shift_ms, offset_ms)
    assert grid.cells_of(grid, 50).tolist() == list(range(50))


@pytest.mark.parametrize(("shift_ms", "offset_ms"), [(0.0, 1.0), (-20.0, 1.0), (inf, 1.0), (nan, 1.0), (20.0, nan)])
def test_times_that_are_none_are_refused(shift_ms, offset_ms):
    with pytest.raises(ValueError, match="frames every"):
        FrameGrid(shift_ms, offset_ms)
