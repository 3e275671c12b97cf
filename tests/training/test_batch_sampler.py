"""Batches: every utterance once, within the budget, decided by seed and epoch alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.features.augment import NO_AUGMENTATION, Augmentation
from asr_kd.training.batch_sampler import DurationBatchSampler, plan_epoch, share_of

AUGMENTATION = Augmentation(speeds=(0.9, 1.0, 1.1), silence_share=0.5, silence_max_seconds=1.0)
durations = st.lists(st.floats(0.1, 20.0), min_size=1, max_size=60)


def padded_seconds(batch, lengths):
    return max(lengths[d.row] / d.speed + d.extra_frames / 100 for d in batch) * len(batch)


@given(lengths=durations, epoch=st.integers(1, 5))
def test_every_utterance_once_and_no_batch_too_long(lengths, epoch):
    batches = plan_epoch(lengths, AUGMENTATION, 25.0, seed=1, epoch=epoch)
    assert sorted(draw.row for batch in batches for draw in batch) == list(range(len(lengths)))
    assert all(padded_seconds(batch, lengths) <= 25.0 + 1e-6 or len(batch) == 1 for batch in batches)


@given(lengths=durations)
def test_seed_and_epoch_decide(lengths):
    plan = [plan_epoch(lengths, AUGMENTATION, 25.0, seed, epoch) for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1))]
    assert plan[0] == plan[1]
    if len(lengths) > 20:
        assert plan[0] not in (plan[2], plan[3])


def test_delay_always_gets_its_silence():
    batches = plan_epoch([1.0] * 20, NO_AUGMENTATION, 10.0, 0, 1, min_silence_frames=12)
    assert all(draw.silence_frames == 12 for batch in batches for draw in batch)


def test_silence_in_front_is_whole_encoder_frames_and_gain_stays_in_its_range():
    settings = Augmentation(silence_share=0.5, silence_max_seconds=0.5, gain_share=0.25, gain_db=(-20, 6))
    plan = [draw for batch in plan_epoch([1.0] * 1000, settings, 20.0, 1, 1) for draw in batch]
    leads = [draw.lead_frames for draw in plan]
    assert set(leads) == {4 * frames for frames in range(13)}  # up to 480 ms, what of 500 ms is whole frames
    assert 420 <= sum(lead > 0 for lead in leads) <= 580
    gains = [draw.gain_db for draw in plan if draw.gain_db]
    assert 200 <= len(gains) <= 300
    assert -20 <= min(gains) < -15
    assert 3 < max(gains) <= 6
    assert all(draw.silence_seed is not None for draw in plan if draw.extra_frames)
    assert sum(draw.silence_seed is None for draw in plan) > 200  # neither in front nor behind
    later = [draw for batch in plan_epoch([1.0] * 1000, settings, 20.0, 1, 2) for draw in batch]
    assert sorted(plan) != sorted(later)


def test_the_shares_of_silence_and_gain_rise_over_the_first_third_of_the_epochs():
    sampler = DurationBatchSampler([1.0] * 1000, Augmentation(silence_share=0.6), 20.0, seed=1, epochs=12)
    shares, counts = [], []
    for epoch in range(1, 13):
        sampler.set_epoch(epoch)
        draws = [draw for batch in sampler for draw in batch]
        shares.append(sum(draw.lead_frames > 0 for draw in draws) / 1000)
        counts.append(len(sampler))
    assert sampler.count_all(12) == pytest.approx(sum(counts), rel=0.02)
    assert len(sampler) == counts[0] < counts[-1]
    assert shares[0] == 0.0
    assert shares[1:4] == pytest.approx([0.15, 0.3, 0.45], abs=0.05)
    assert shares[4:] == pytest.approx([0.6] * 8, abs=0.05)


def test_a_skipped_beginning_is_skipped_once():
    batches = DurationBatchSampler([1.0] * 20, AUGMENTATION, 5.0, seed=0)
    whole = list(batches)
    batches.skip = 2
    assert list(batches) == whole[2:]
    assert list(batches) == whole


@given(lengths=durations, count=st.integers(1, 5))
def test_shares_of_any_number_of_processes_are_the_same_batches(lengths, count):
    whole = list(DurationBatchSampler(lengths, AUGMENTATION, 25.0, seed=1))
    shares = [
        list(DurationBatchSampler(lengths, AUGMENTATION, 25.0, seed=1, rank=rank, count=count)) for rank in range(count)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        assert sorted(draw for part in parts for draw in part) == sorted(batch)
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@given(lengths=durations, count=st.integers(2, 4))
def test_shares_have_nearly_as_much_audio(lengths, count):
    batch = plan_epoch(lengths, NO_AUGMENTATION, 1e9, 0, 1)[0]
    audio = [sum(lengths[d.row] for d in share_of(batch, lambda d: lengths[d.row], r, count)) for r in range(count)]
    assert max(audio) - min(audio) <= max(lengths) + 1e-6


@given(lengths=durations)
def test_in_the_first_epochs_batches_grow_longer_and_later_they_do_not(lengths):
    plain, sorted_first = (
        DurationBatchSampler(lengths, AUGMENTATION, 25.0, seed=1, curriculum_epochs=n) for n in (0, 2)
    )
    for epoch in (1, 2, 3):
        plain.set_epoch(epoch)
        sorted_first.set_epoch(epoch)
        assert sorted(map(sorted, plain)) == sorted(map(sorted, sorted_first))  # the same batches
        if epoch == 3:
            assert list(plain) == list(sorted_first)
            continue
        longest = [max(lengths[d.row] / d.speed + d.extra_frames / 100 for d in batch) for batch in sorted_first]
        assert longest == sorted(longest)
