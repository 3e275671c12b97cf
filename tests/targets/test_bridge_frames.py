"""Resampling: known answers, and what holds for any grids and any posteriors: mass, tokens, padding, time."""

from itertools import pairwise
from math import ceil
from typing import get_args

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from asr_kd.decoding.greedy import greedy
from asr_kd.errors import TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.types import FrameGrid
from asr_kd.targets.bridge import STUDENT_GRID, student_frames
from asr_kd.targets.bridge_frames import Strategy, resample

BLANK, VOCAB_SIZE = 0, 5
WAV2VEC2 = FrameGrid(20.0, 12.5)
STRATEGIES = get_args(Strategy)
KEEPS_SPIKES = [name for name in STRATEGIES if name != "mean"]
FINER_OR_COARSER = [(20, 40), (20, 30), (80, 40), (40, 30), (25, 40), (40, 40), (100 / 3, 40), (10, 40), (60, 40)]


def spikes(path: list[int], peak: float = 0.9) -> DensePosteriors:
    """One utterance whose likeliest tokens are these; the rest of each frame is spread evenly."""
    probs = torch.full((1, len(path), VOCAB_SIZE), (1 - peak) / (VOCAB_SIZE - 1))
    probs[0, torch.arange(len(path)), torch.tensor(path, dtype=torch.long)] = peak
    return DensePosteriors(probs.log(), torch.tensor([len(path)]))


def random_posteriors(seed: int, lens: list[int]) -> DensePosteriors:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(lens), max(lens), VOCAB_SIZE, generator=generator) * 3
    return DensePosteriors(logits.log_softmax(-1), torch.tensor(lens))


def best_path(posteriors: DensePosteriors) -> list[int]:
    return greedy(posteriors.log_probs, posteriors.lens, BLANK)[0].tokens


def frames_that_fit(source: FrameGrid, target: FrameGrid, count: int) -> int:
    """Frames of the target up to the last that holds a centre of the source's."""
    return max(int(target.cells_of(source, count)[-1]) + 1, 0) if count else 0


def one(posteriors: DensePosteriors, target_len: int, strategy: Strategy = "blank_aware") -> DensePosteriors:
    return resample(posteriors, WAV2VEC2, STUDENT_GRID, torch.tensor([target_len]), BLANK, strategy)


# -- known answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("mean", [0.55, 0.4, 0.05]),
        ("max_nonblank", [0.2, 0.7, 0.1]),
        ("blank_aware", [0.18, 0.82 * 8 / 9, 0.82 / 9]),  # 0.9 · 0.2 blank; tokens 0.8 : 0.1
        ("spikes_apart", [0.18, 0.82 * 8 / 9, 0.82 / 9]),
    ],
)
def test_two_frames_become_one_by_hand(strategy, expected):
    probs = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.7, 0.1]]])
    dense = DensePosteriors(probs.log(), torch.tensor([2]))
    merged = resample(dense, FrameGrid(20, 25), FrameGrid(40, 35), torch.tensor([1]), BLANK, strategy)
    torch.testing.assert_close(merged.log_probs.exp(), torch.tensor([[expected]]))


def test_time_decides_where_a_wav2vec2_frame_goes():
    """Centres 12.5 | 32.5, 52.5 | 72.5, 92.5 …: frame 0 lies before the first cell and goes into it."""
    for frame, cell in enumerate([0, 0, 0, 1, 1, 2, 2]):
        path = [BLANK] * 7
        path[frame] = 3
        bridged = one(spikes(path), 3, "max_nonblank")
        assert bridged.log_probs.argmax(-1)[0].tolist() == [3 if i == cell else BLANK for i in range(3)]


def test_a_coarse_teacher_is_held_and_not_doubled():
    path = [0, 1, 0, 1, 2, 2, 0]
    for strategy in STRATEGIES:
        bridged = resample(spikes(path), FrameGrid(80, 55), STUDENT_GRID, torch.tensor([14]), BLANK, strategy)
        assert bridged.log_probs.argmax(-1)[0].tolist() == [token for token in path for _ in range(2)]


def test_certain_frames_stay_certain():
    """Blank on every frame, and tokens of probability 1: nothing becomes NaN."""
    for path, expected in [([0, 0, 0], [0]), ([0, 1, 1], [1]), ([1, 1, 0], [1])]:
        probs = torch.eye(VOCAB_SIZE)[torch.tensor([path])]
        for strategy in KEEPS_SPIKES:
            merged = one(DensePosteriors(probs.log(), torch.tensor([3])), 1, strategy)
            assert merged.log_probs.exp().tolist() == [torch.eye(VOCAB_SIZE)[expected].tolist()]


def test_two_tokens_in_a_cell_move_apart_and_a_doubled_letter_keeps_its_blank():
    # Frames 1, 2 lie in cell 0, 3, 4 in 1, and so on.
    meeting = [0, 0, 0, 1, 2, 0, 0, 0, 0]
    doubled = [0, 0, 0, 1, 0, 1, 0, 0, 0]
    both = [0, 1, 0, 1, 0, 0, 0, 0, 2, 0, 2, 3, 0, 0, 0, 0, 0]
    for path, tokens in [(meeting, [1, 2]), (doubled, [1, 1]), (both, [1, 1, 2, 2, 3])]:
        num_frames = frames_that_fit(WAV2VEC2, STUDENT_GRID, len(path))
        assert len(best_path(one(spikes(path), num_frames, "blank_aware"))) < len(tokens)
        assert best_path(one(spikes(path), num_frames, "spikes_apart")) == tokens


def test_a_tokens_time_is_the_middle_of_its_frames():
    """Both tokens touch cell 1: by their first frames they would be in 0 and 1, by their middles in 1 and 2."""
    path = [0, 0, 1, 1, 2, 2, 0, 0, 0]
    bridged = one(spikes(path), 4, "spikes_apart")
    assert bridged.log_probs.argmax(-1)[0].tolist() == [1, 1, 2, 0]
    assert best_path(bridged) == [1, 2]


def test_a_token_moves_by_a_frame_at_most():
    crowd = [0, 0, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0]
    bridged = one(spikes(crowd), 9, "spikes_apart")
    tokens = bridged.log_probs.argmax(-1)[0].tolist()
    assert len(best_path(bridged)) < 8, "eight tokens in four cells cannot all be kept"
    for cell, token in enumerate(tokens):
        if token != BLANK:
            by_time = STUDENT_GRID.cells_of(WAV2VEC2, len(crowd)).tolist()
            assert any(abs(by_time[j] - cell) <= 1 for j, spoken in enumerate(crowd) if spoken == token)


# -- ends ------------------------------------------------------------------------------------------------


def test_one_frame_more_is_filled_with_blank_and_two_are_refused():
    dense = spikes([1] * 7)  # centres to 132.5; the third cell ends at 135
    for strategy in STRATEGIES:
        filled = one(dense, 4, strategy)
        assert filled.log_probs[0, 3].exp().tolist() == [1, 0, 0, 0, 0]
        assert filled.log_probs.argmax(-1)[0, :3].tolist() == [1, 1, 1]
        with pytest.raises(TargetsError, match=r"7 frames .*20 ms.* and the student's 5 of the same audio .*40 ms"):
            one(dense, 5, strategy)


def test_a_teacher_that_begins_late_is_filled_up_to_one_frame_too():
    dense = spikes([1] * 6)
    late = resample(dense, FrameGrid(40, 75), STUDENT_GRID, torch.tensor([7]), BLANK, "mean")
    assert late.log_probs.argmax(-1)[0].tolist() == [0, 1, 1, 1, 1, 1, 1]
    with pytest.raises(TargetsError, match="do not fit"):
        resample(dense, FrameGrid(40, 115), STUDENT_GRID, torch.tensor([8]), BLANK, "mean")


def test_frames_beyond_the_last_cell_are_merged_and_not_cropped():
    path = [0, 0, 0, 0, 0, 0, 2]  # centre 132.5; two cells end at 95
    for strategy in KEEPS_SPIKES:
        assert best_path(one(spikes(path), 2, strategy)) == [2]
    with pytest.raises(TargetsError, match=r"9 frames .* student's 1 of the same audio"):
        one(spikes([0] * 9), 1)


def test_audio_too_short_for_one_side_has_no_frames():
    dense = random_posteriors(0, [2, 0, 4])
    bridged = resample(dense, WAV2VEC2, STUDENT_GRID, torch.tensor([0, 3, 2]), BLANK, "spikes_apart")
    assert bridged.lens.tolist() == [0, 0, 2]
    assert one(random_posteriors(0, [2]), 0).log_probs.shape == (1, 0, VOCAB_SIZE)


@pytest.mark.parametrize(
    ("grid", "count"),
    [
        (WAV2VEC2, lambda samples: max((samples - 400) // 320 + 1, 0)),
        (FrameGrid(20.0, 0.0), lambda samples: samples // 320 + 1),
        (FrameGrid(40.0, 0.0), lambda samples: samples // 640 + 1),
        (FrameGrid(80.0, 0.0), lambda samples: samples // 1280 + 1),
        (FrameGrid(80.0, 40.0), lambda samples: -(-samples // 1280)),
        (STUDENT_GRID, lambda samples: int(student_frames(torch.tensor([samples])))),
    ],
)
def test_models_that_people_have_fit_at_every_length(grid, count):
    """Unpadded convolutions, centred windows, a last window that is filled up: none is refused, none cropped."""
    samples = torch.arange(0, 40_000, 37)
    lens = torch.tensor([count(int(number)) for number in samples])
    logits = torch.zeros(len(lens), int(lens.max()), 2).log_softmax(-1)
    expected = student_frames(samples).masked_fill(lens == 0, 0)
    bridged = resample(DensePosteriors(logits, lens), grid, STUDENT_GRID, student_frames(samples), BLANK, "mean")
    assert bridged.lens.tolist() == expected.tolist()
    assert int(expected.max()) > 50


# -- what always holds -----------------------------------------------------------------------------------

grids = st.builds(
    FrameGrid, st.sampled_from([10.0, 20.0, 25.0, 100 / 3, 40.0, 80.0]), st.sampled_from([5.0, 12.5, 20.0])
)
seeds = st.integers(0, 10_000)
strategies = st.sampled_from(STRATEGIES)


@given(seed=seeds, source=grids, strategy=strategies, lens=st.lists(st.integers(1, 30), min_size=1, max_size=3))
def test_every_frame_sums_to_one(seed, source, strategy, lens):
    target_lens = torch.tensor([frames_that_fit(source, STUDENT_GRID, count) for count in lens])
    bridged = resample(random_posteriors(seed, lens), source, STUDENT_GRID, target_lens, BLANK, strategy)
    assert bridged.lens.tolist() == target_lens.tolist()
    assert bridged.log_probs.shape[:2] == (len(lens), int(target_lens.max()))
    torch.testing.assert_close(bridged.log_probs.exp().sum(-1), torch.ones(bridged.log_probs.shape[:2]))


@given(seed=seeds, grid=grids, strategy=strategies)
def test_equal_grids_change_nothing(seed, grid, strategy):
    dense = random_posteriors(seed, [9, 12])
    bridged = resample(dense, grid, grid, dense.lens, BLANK, strategy)
    torch.testing.assert_close(bridged.log_probs[0, :9], dense.log_probs[0, :9])
    torch.testing.assert_close(bridged.log_probs[1], dense.log_probs[1])
    assert (bridged.log_probs[0, 9:].argmax(-1) == BLANK).all()


@given(seed=seeds, source=grids, strategy=strategies, lens=st.lists(st.integers(4, 30), min_size=2, max_size=3))
def test_neither_padding_nor_neighbours_change_an_utterance(seed, source, strategy, lens):
    dense = random_posteriors(seed, lens)
    target_lens = torch.tensor([frames_that_fit(source, STUDENT_GRID, count) for count in lens])
    together = resample(dense, source, STUDENT_GRID, target_lens, BLANK, strategy)
    for row, (count, length) in enumerate(zip(lens, target_lens.tolist(), strict=True)):
        alone = DensePosteriors(dense.log_probs[row : row + 1, :count], torch.tensor([count]))
        by_itself = resample(alone, source, STUDENT_GRID, torch.tensor([length]), BLANK, strategy)
        torch.testing.assert_close(together.log_probs[row, :length], by_itself.log_probs[0])


@given(seed=seeds, source=grids, strategy=strategies, later_ms=st.sampled_from([5.0, 62.5, 1000.0]))
def test_only_the_difference_in_time_matters(seed, source, strategy, later_ms):
    dense = random_posteriors(seed, [20])
    length = torch.tensor([frames_that_fit(source, STUDENT_GRID, 20)])
    here = resample(dense, source, STUDENT_GRID, length, BLANK, strategy)
    moved = [FrameGrid(grid.shift_ms, grid.offset_ms + later_ms) for grid in (source, STUDENT_GRID)]
    there = resample(dense, *moved, length, BLANK, strategy)
    torch.testing.assert_close(here.log_probs, there.log_probs)


@given(seed=seeds, strategy=st.sampled_from(["mean", "max_nonblank", "blank_aware"]), source=grids)
def test_a_teacher_one_student_frame_later_is_the_same_one_frame_later(seed, strategy, source):
    """But for the first cell, which takes what lies before it. (Moved tokens depend on the room at the beginning.)"""
    dense = random_posteriors(seed, [24])
    later = FrameGrid(source.shift_ms, source.offset_ms + 40.0)
    length = frames_that_fit(source, STUDENT_GRID, 24)
    early = resample(dense, source, STUDENT_GRID, torch.tensor([length]), BLANK, strategy).log_probs[0]
    late = resample(dense, later, STUDENT_GRID, torch.tensor([length + 1]), BLANK, strategy).log_probs[0]
    torch.testing.assert_close(late[2:], early[1:])


@given(path=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=30), ratio=st.sampled_from(FINER_OR_COARSER))
def test_onto_a_grid_that_is_no_coarser_every_token_survives(path, ratio):
    source_ms, target_ms = ratio
    assume(target_ms <= source_ms)
    source, target = FrameGrid(source_ms, 20.0), FrameGrid(target_ms, 20.0)
    expected = best_path(spikes(path))
    for strategy in STRATEGIES:
        length = torch.tensor([frames_that_fit(source, target, len(path))])
        assert best_path(resample(spikes(path), source, target, length, BLANK, strategy)) == expected


@given(
    tokens=st.lists(st.integers(1, VOCAB_SIZE - 1), min_size=1, max_size=8),
    further=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    ratio=st.sampled_from([(20, 40), (20, 30), (40, 80), (10, 20), (25, 40), (100 / 3, 40)]),
    offset_ms=st.sampled_from([0.0, 12.5, 20.0]),
)
def test_spikes_a_frame_apart_survive_the_way_to_coarser_frames(tokens, further, ratio, offset_ms):
    """One coarser frame from spike to spike, two between equal ones: time alone keeps them apart."""
    path, previous = [0, 0], 0
    for token, more in zip(tokens, further, strict=False):
        distance = ceil((2 if token == previous else 1) * ratio[1] / ratio[0]) + more
        path, previous = [*path, *[0] * (distance - 1), token], token
    path += [0] * 4
    source, target = FrameGrid(ratio[0], offset_ms), FrameGrid(ratio[1], 35.0)
    length = torch.tensor([frames_that_fit(source, target, len(path))])
    for strategy in KEEPS_SPIKES:
        assert best_path(resample(spikes(path), source, target, length, BLANK, strategy)) == tokens


@given(
    pairs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=5),
    pauses=st.lists(st.integers(8, 12), min_size=5, max_size=5),
)
def test_pairs_in_one_cell_survive_when_kept_apart(pairs, pauses):
    """Two tokens at any distance, equal ones a blank apart, with a pause after them."""
    path, expected = [0] * 6, []
    for (first, second, gap), pause in zip(pairs, pauses, strict=False):
        path += [first, *[0] * max(gap, first == second), second, *[0] * pause]
        expected += [first, second]
    bridged = one(spikes(path), frames_that_fit(WAV2VEC2, STUDENT_GRID, len(path)), "spikes_apart")
    assert best_path(bridged) == expected


@given(path=st.lists(st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 3]), min_size=6, max_size=40))
def test_where_tokens_do_not_meet_keeping_apart_changes_nothing(path):
    length = frames_that_fit(WAV2VEC2, STUDENT_GRID, len(path))
    together, apart = (one(spikes(path), length, name) for name in ("blank_aware", "spikes_apart"))
    cells = STUDENT_GRID.cells_of(WAV2VEC2, len(path)).clamp_min(0).tolist()
    begun = [j for j, token in enumerate(path) if token != BLANK and (j == 0 or path[j - 1] != token)]
    needed = [1 + (path[j] == path[i]) for i, j in pairwise(begun)]
    ended = [max(j for j in range(i, len(path)) if path[i : j + 1] == [path[i]] * (j + 1 - i)) for i in begun]
    distances = [cells[j] - cells[i] for i, j in zip(ended, begun[1:], strict=False)]
    assume(all(distance >= room for distance, room in zip(distances, needed, strict=True)))
    torch.testing.assert_close(apart.log_probs, together.log_probs)
