"""Agreement of frames: nothing between equals, and a delay that is found."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.evaluation.frame_measures import MOST_SHIFT_FRAMES, frame_agreement
from tests.helpers.spelled import spelled


def random_posteriors(frames, seed=0, size=5):
    return torch.randn(frames, size, generator=torch.Generator().manual_seed(seed)).mul(3).log_softmax(-1)


def test_equal_posteriors_agree_wholly():
    same = random_posteriors(30)
    found = frame_agreement([(same, same)], 0)
    assert found["frames"] == 30
    assert found["frame_kl"] == pytest.approx(0, abs=1e-6)
    assert (found["argmax_agreement"], found["spoken_agreement"]) == (1.0, 1.0)
    assert found["at_best_shift"]["shift_frames"] == 0


@settings(max_examples=16, deadline=None)
@given(st.integers(0, MOST_SHIFT_FRAMES))
def test_a_delay_is_found_and_undone(late):
    teacher = random_posteriors(60, seed=late)
    student = torch.cat([random_posteriors(late, seed=99), teacher])
    best = frame_agreement([(teacher, student)], 0)["at_best_shift"]
    assert (best["shift_frames"], best["shift_ms"]) == (late, 40 * late)
    assert best["frame_kl"] == pytest.approx(0, abs=1e-5)
    assert best["argmax_agreement"] == 1.0


def test_known_divergence_and_shares():
    teacher = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]]).log()
    student = torch.tensor([[0.25, 0.75], [0.9, 0.1], [0.2, 0.8], [0.8, 0.2]]).log()
    found = frame_agreement([(teacher[:2], student[:2]), (teacher[2:], student[2:])], 0)
    divergences = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0, 0, 0.2 * math.log(0.25) + 0.8 * math.log(4)]
    assert found["frame_kl"] == pytest.approx(sum(divergences) / 4, abs=1e-6)
    assert found["argmax_agreement"] == pytest.approx(2 / 4)  # ties go to the first: the teacher's 0 against 1
    assert found["spoken_agreement"] == pytest.approx(1 / 2)


def test_blank_alone_does_not_count_as_spoken_agreement():
    teacher, student = spelled([3, 4], [5, 9], 20), spelled([], [], 20)
    found = frame_agreement([(teacher, student)], 0)
    assert found["argmax_agreement"] == pytest.approx(18 / 20)
    assert found["spoken_agreement"] == 0.0


def test_nothing_to_compare_is_none():
    found = frame_agreement([], 0)
    assert (found["frames"], found["frame_kl"], found["at_best_shift"]["frame_kl"]) == (0, None, None)
