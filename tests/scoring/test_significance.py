"""Known answers for the bootstrap, and the coverage of its intervals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.errors import EvaluationError
from asr_kd.scoring.significance import (
    Interval,
    Resampling,
    bootstrap_difference,
    bootstrap_runs,
    bootstrap_wer,
    gap_recovered,
)

FEW = Resampling(samples=400, seed=3)


def a_test_set(utterances: int, seed: int, rates: tuple[float, ...] = (0.2, 0.15, 0.1)):
    """Errors of systems with these true WERs on utterances of 5–40 words."""
    rng = np.random.default_rng(seed)
    words = rng.integers(5, 41, size=utterances)
    return words, [rng.binomial(words, rate) for rate in rates]


def test_the_same_rate_everywhere_has_an_interval_of_one_point():
    words = np.array([10, 20, 40])
    assert bootstrap_wer(words // 10, words) == pytest.approx((0.1, 0.1))


def test_the_interval_is_the_one_of_the_binomial_where_that_is_known():
    errors = np.array([1] * 100 + [0] * 300)  # one-word utterances: WER is a binomial share
    low, high = bootstrap_wer(errors, np.ones(400), resampling=Resampling(samples=20_000))
    deviation = np.sqrt(0.25 * 0.75 / 400)
    assert (low, high) == pytest.approx((0.25 - 1.96 * deviation, 0.25 + 1.96 * deviation), abs=0.003)


def test_a_seed_repeats_and_another_differs():
    words, (errors, *_) = a_test_set(60, seed=1)
    first = bootstrap_wer(errors, words, resampling=FEW)
    assert bootstrap_wer(errors, words, resampling=FEW) == first
    assert bootstrap_wer(errors, words, resampling=Resampling(400, seed=4)) != first


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    words, (errors, *_) = a_test_set(50, seed=2)
    whole = bootstrap_wer(errors, words, resampling=FEW)
    monkeypatch.setattr("asr_kd.scoring.significance.CHUNK_DRAWS", 50 * 7)
    assert bootstrap_wer(errors, words, resampling=FEW) == whole


def test_intervals_have_their_coverage():
    held = 0
    for seed in range(200):
        words, (errors,) = a_test_set(80, seed=seed, rates=(0.2,))
        held += 0.2 in bootstrap_wer(errors, words, resampling=Resampling(samples=300, seed=seed))
    assert 0.90 <= held / 200 <= 0.99


def test_speakers_who_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    speakers = np.repeat([f"s{n}" for n in range(10)], 30)
    rates = np.repeat(rng.uniform(0.02, 0.4, size=10), 30)
    words = np.full(300, 20)
    errors = rng.binomial(words, rates)
    by_utterance = bootstrap_wer(errors, words, resampling=FEW)
    by_speaker = bootstrap_wer(errors, words, groups=list(speakers), resampling=FEW)
    assert by_speaker.high - by_speaker.low > 1.5 * (by_utterance.high - by_utterance.low)


def test_one_speaker_an_utterance_is_the_bootstrap_over_utterances():
    words, (errors, *_) = a_test_set(40, seed=5)
    groups = [f"{n:03d}" for n in range(40)]
    assert bootstrap_wer(errors, words, groups=groups, resampling=FEW) == bootstrap_wer(errors, words, resampling=FEW)


def test_one_utterance_or_one_speaker_has_no_interval():
    assert bootstrap_wer([1], [10]) is None
    assert bootstrap_wer([1, 2], [10, 10], groups=["s", "s"]) is None


def test_resamples_of_empty_references_alone_are_left_out():
    low, high = bootstrap_wer([0, 0, 2], [0, 0, 10], resampling=FEW)
    assert (low, high) == (0.2, 0.2)


def test_no_reference_words_are_an_error():
    with pytest.raises(EvaluationError, match="no reference word"):
        bootstrap_wer([1, 1], [0, 0])


def test_other_lengths_are_a_programming_error():
    with pytest.raises(ValueError, match="same shape"):
        bootstrap_wer([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="one entry an utterance"):
        bootstrap_wer([1, 2], [1, 2], groups=["a"])


def test_a_paired_difference_is_narrower_than_its_parts():
    words = np.full(100, 20)
    hard = np.random.default_rng(0).binomial(words, np.random.default_rng(1).uniform(0, 0.6, size=100))
    kd = np.maximum(hard - 1, 0)  # one error fewer wherever there was one
    difference = bootstrap_difference(kd, hard, words, resampling=FEW)
    assert difference.value == pytest.approx((kd.sum() - hard.sum()) / 2000)
    assert difference.interval.high < 0
    alone = bootstrap_wer(hard, words, resampling=FEW)
    assert difference.interval.high - difference.interval.low < (alone.high - alone.low) / 3


def test_a_system_does_not_differ_from_itself():
    words, (errors, *_) = a_test_set(30, seed=7)
    difference = bootstrap_difference(errors, errors, words, resampling=FEW)
    assert (difference.value, difference.interval) == (0.0, Interval(0.0, 0.0))


def test_gap_recovered_is_half_when_kd_stands_half_way():
    words = np.full(50, 20)
    gap = gap_recovered(np.full(50, 8), np.full(50, 6), np.full(50, 4), words, resampling=FEW)
    assert (gap.value, gap.gap, gap.reason) == (0.5, pytest.approx(0.2), None)
    assert gap.interval == pytest.approx((0.5, 0.5))
    assert gap.value is not None


def test_kd_equal_to_the_teacher_recovers_all_and_equal_to_hard_nothing():
    words, (hard, _, teacher) = a_test_set(200, seed=11)
    everything = gap_recovered(hard, teacher, teacher, words, resampling=FEW)
    nothing = gap_recovered(hard, hard, teacher, words, resampling=FEW)
    assert (everything.value, everything.interval) == (1.0, Interval(1.0, 1.0))
    assert (nothing.value, nothing.interval) == (0.0, Interval(0.0, 0.0))


def test_kd_that_hurts_recovers_less_than_nothing():
    words, (kd, hard, teacher) = a_test_set(400, seed=12, rates=(0.24, 0.2, 0.1))
    assert gap_recovered(hard, kd, teacher, words, resampling=FEW).interval.high < 0


def test_the_joint_interval_holds_the_true_share():
    held = 0
    for seed in range(60):
        words, (hard, kd, teacher) = a_test_set(250, seed=seed)
        gap = gap_recovered(hard, kd, teacher, words, resampling=Resampling(samples=300, seed=seed))
        held += 0.5 in gap.interval
    assert held >= 52


def test_a_teacher_that_is_not_surely_ahead_leaves_it_undefined():
    words, (hard, kd, teacher) = a_test_set(30, seed=13, rates=(0.2, 0.19, 0.2))
    gap = gap_recovered(hard, kd, teacher, words, resampling=FEW)
    assert gap.value is None
    assert gap.interval is None
    assert 0 in gap.gap_interval
    assert "which holds 0" in gap.reason


def test_a_teacher_that_is_surely_behind_leaves_nothing_to_recover():
    words, (teacher, kd, hard) = a_test_set(200, seed=14)
    gap = gap_recovered(hard, kd, teacher, words, resampling=FEW)
    assert gap.value is None
    assert "points behind the student without distillation" in gap.reason


def test_one_speaker_leaves_it_undefined():
    gap = gap_recovered([2, 2], [1, 1], [0, 0], [9, 9], groups=["s", "s"])
    assert (gap.value, gap.reason) == (None, "one speaker alone cannot be resampled")


def test_several_seeds_give_the_ratio_of_means_and_a_wider_interval():
    words = np.full(100, 20)
    rng = np.random.default_rng(15)
    hard = np.stack([rng.binomial(words, rate) for rate in (0.19, 0.20, 0.21)])
    kd = np.stack([rng.binomial(words, rate) for rate in (0.11, 0.15, 0.19)])  # runs that disagree
    teacher = rng.binomial(words, 0.1)
    gap = gap_recovered(hard, kd, teacher, words, resampling=FEW)
    expected = (hard.mean(0).sum() - kd.mean(0).sum()) / (hard.mean(0).sum() - teacher.sum())
    assert gap.value == pytest.approx(expected)
    one = gap_recovered(hard[1], kd[1], teacher, words, resampling=FEW)
    assert gap.interval.high - gap.interval.low > one.interval.high - one.interval.low


@settings(deadline=None)  # no test asserts a time
@given(seed=st.integers(0, 10_000), utterances=st.integers(2, 30))
def test_ends_are_finite_ordered_and_reachable(seed, utterances):
    words, (hard, kd, teacher) = a_test_set(utterances, seed)
    resampling = Resampling(samples=200, seed=seed)
    low, high = bootstrap_wer(hard, words, resampling=resampling)
    rates = hard / words
    assert rates.min() - 1e-12 <= low <= high <= rates.max() + 1e-12
    gap = gap_recovered(hard, kd, teacher, words, resampling=resampling)
    assert (gap.value is not None) == (gap.interval is not None) == (gap.gap_interval.low > 0)
    if gap.interval is not None:
        assert np.isfinite(gap.interval).all()
        assert gap.interval.low <= gap.interval.high


def test_several_runs_have_a_mean_a_spread_and_an_interval_that_holds_both():
    words = np.full(100, 20)
    rng = np.random.default_rng(16)
    runs = np.stack([rng.binomial(words, rate) for rate in (0.10, 0.15, 0.20)])
    found = bootstrap_runs(runs, words, resampling=FEW)
    rates = runs.sum(axis=1) / 2000
    assert found.rates == pytest.approx(tuple(rates))
    assert found.mean == pytest.approx(rates.mean())
    assert found.deviation == pytest.approx(rates.std(ddof=1))
    assert found.mean in found.interval
    same = bootstrap_runs([runs[1]] * 3, words, resampling=FEW)
    assert same.deviation == 0
    assert same.interval == pytest.approx(bootstrap_wer(runs[1], words, resampling=FEW))
    wide, narrow = (interval.high - interval.low for interval in (found.interval, same.interval))
    assert wide > 2 * narrow


def test_one_run_has_no_spread_and_the_interval_of_its_own():
    words, (errors, *_) = a_test_set(40, seed=5)
    found = bootstrap_runs(errors, words, resampling=FEW)
    assert (found.deviation, found.interval) == (None, bootstrap_wer(errors, words, resampling=FEW))
