"""Scales, ticks and places that charts stand on."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.evaluation.report.charts import (
    apart,
    linear,
    log_ticks,
    logarithmic,
    markup,
    padded,
    picture,
    ticks,
    write,
)

POSITIVE = st.floats(1e-4, 1e6)


def test_scales_map_ends_to_ends():
    assert [linear((2, 4), (10, 20))(value) for value in (2, 3, 4)] == [10, 15, 20]
    assert logarithmic((1, 100), (0, 10))(10) == pytest.approx(5)
    assert linear((1, 1), (0, 10))(1) == 0  # one value only


@given(st.floats(-100, 100), st.floats(0.001, 1000))
def test_ticks_are_round_few_and_inside(low, span):
    found = ticks(low, low + span)
    assert all(low - 1e-6 * span <= value <= low + span + 1e-6 * span for value in found)
    assert 2 <= len(found) <= 11
    steps = {round((after - before) / span, 6) for before, after in pairwise(found)}
    assert max(steps) - min(steps) < 1e-4


@given(POSITIVE, st.floats(1.8, 1e4))
def test_there_are_at_least_two_marks_on_a_logarithmic_axis(low, ratio):
    found = log_ticks(low, low * ratio)
    assert len(found) >= 2 or ratio < 3
    assert all(low <= value <= low * ratio for value in found)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8), st.floats(1, 20))
def test_labels_are_moved_apart_and_keep_their_order(places, least):
    moved = apart(places, least)
    order = sorted(range(len(places)), key=lambda index: places[index])
    assert all(moved[after] - moved[before] >= least - 1e-6 for before, after in pairwise(order))
    if all(b - a >= least for a, b in pairwise(sorted(places))):
        assert moved == pytest.approx(places)


@given(st.lists(st.floats(0, 1, width=16), min_size=1, max_size=5))
def test_a_domain_holds_its_values_and_no_negative_rate(values):
    low, high = padded(values)
    assert 0 <= low <= min(values)
    assert high > max(values)


def test_text_in_a_picture_is_escaped():
    root = picture(10, 'a "label" <b>')
    write(root, 1, 2, "<script>&")
    written = str(markup(root))
    assert ">&lt;script&gt;&amp;</text>" in written
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in written
