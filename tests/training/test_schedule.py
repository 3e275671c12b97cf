"""The learning rate's known values."""

from itertools import pairwise

import pytest

from asr_kd.training.step import learning_rate


def test_known_values():
    rates = [learning_rate(step, total_steps=101, warmup_steps=10, peak=1.0, final_share=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_without_warmup_and_past_the_end():
    assert learning_rate(0, 10, 0, 2.0, 0.0) == pytest.approx(2.0)
    assert learning_rate(500, 10, 0, 2.0, 0.5) == pytest.approx(1.0)
