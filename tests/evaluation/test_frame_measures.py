"""Posteriors of a student beside its teacher's: known delays, and frames that agree."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.evaluation.frame_measures import (
    MOST_SHIFT_FRAMES,
    available_ms,
    chunk_wait_ms,
    forced_alignment,
    frame_agreement,
    measure_delay,
)
from asr_kd.evaluation.open_systems import SystemPosteriors
from asr_kd.models.settings import Context
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.targets.bridge import STUDENT_GRID
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.spelled import VOCABULARY, posteriors_source, spelled
from tests.helpers.tiny_models import CHUNK_FRAMES, noise_speech, save_tiny_model

TEXT = "one two three"
TOKENS = VOCABULARY.encode(TEXT)


def at(first, step=2):
    return [first + step * place for place in range(len(TOKENS))]


def delays(student_frames, *, context=None, tokens=TOKENS, teacher_tokens=TOKENS, text=TEXT):
    teacher = spelled(teacher_tokens, at(4)[: len(teacher_tokens)], 60)
    student = spelled(tokens, student_frames, 80)
    return measure_delay([text], posteriors_source(), posteriors_source(context), [(teacher, student)])


@settings(max_examples=20, deadline=None)
@given(st.integers(-4, 20))
def test_a_student_late_by_so_many_frames_is_late_by_40_ms_each(late):
    found = delays(at(4 + late))
    for part, count in (("tokens", len(TOKENS)), ("first_token", 1), ("end_of_speech", 1)):
        assert found["emission"][part] == {"count": count, "median_ms": 40.0 * late, "p90_ms": 40.0 * late}
    assert (found["available"], found["chunk_wait_ms"]) == (None, None)
    assert (found["utterances"], found["reference_tokens"], found["not_aligned"]) == (1, len(TOKENS), 0)


def test_percentiles_are_over_tokens():
    frames = at(4)
    frames[-2:] = [frames[-2] + 10, frames[-1] + 10]  # two of thirteen come 400 ms late
    found = delays(frames)["emission"]
    assert found["tokens"] == {"count": 13, "median_ms": 0.0, "p90_ms": pytest.approx(320.0)}
    assert (found["first_token"]["median_ms"], found["end_of_speech"]["median_ms"]) == (0.0, 400.0)


def test_only_what_both_got_right_counts():
    missing = [*TOKENS[:3], *TOKENS[4:]]  # the student leaves out a token
    assert delays(at(4)[: len(missing)], tokens=missing)["emission"]["tokens"]["count"] == 12
    wrong = [TOKENS[5], *TOKENS[1:]]  # and the teacher has another first one
    found = delays(at(7), teacher_tokens=wrong)
    assert found["emission"]["tokens"]["count"] == 12
    assert found["emission"]["first_token"] == {"count": 0, "median_ms": None, "p90_ms": None}


@pytest.mark.parametrize("letters", ["ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"])
def test_transcripts_are_aligned_as_training_wrote_them(letters):
    """By the normalizer `librispeech` in capitals, by `unicode` in small letters."""
    posteriors = SystemPosteriors(lambda waveform: waveform, Vocabulary(("<blk>", "▁", *letters)), STUDENT_GRID)
    pair = (spelled(TOKENS, at(4), 60), spelled(TOKENS, at(7), 80))
    found = measure_delay(["One, two -- three."], posteriors, posteriors, [pair])
    assert (found["not_aligned"], found["emission"]["tokens"]["count"]) == (0, len(TOKENS))
    assert found["emission"]["tokens"]["median_ms"] == 120.0


def test_what_cannot_be_aligned_is_counted():
    assert delays(at(4), text="ünmöglich")["not_aligned"] == 1
    teacher, student = spelled([], [], 5), spelled([], [], 5)
    found = measure_delay([TEXT, ""], posteriors_source(), posteriors_source(), [(teacher, student)] * 2)
    assert (found["utterances"], found["not_aligned"]) == (0, 2)


def test_the_forced_path_goes_where_the_model_puts_the_tokens():
    aligned = forced_alignment(spelled(TOKENS, at(3, 3), 50), TOKENS, 0)
    assert aligned.first_frames == aligned.last_frames == at(3, 3)
    held = spelled([5, 5, 5, 6], [2, 3, 4, 7], 10)
    assert forced_alignment(held, [5, 6], 0) == ([5, 6], [2, 7], [4, 7])
    twice = forced_alignment(spelled([5, 5], [2, 5], 10), [5, 5], 0)
    assert twice.first_frames == [2, 5]
    assert forced_alignment(held[:2], [5, 5], 0) is None  # equal tokens need a blank between them
    assert forced_alignment(held, [], 0) is None


def test_a_chunk_waits_for_its_last_frame():
    assert chunk_wait_ms(Context(1, 8)) == {"least": 42.5, "mean": 42.5, "most": 42.5}
    assert chunk_wait_ms(Context(8, 8)) == {"least": 42.5, "mean": 182.5, "most": 322.5}
    found = delays(at(4), context=Context(4, 8))
    waits = [available_ms(frame, Context(4, 8)) - (35 + 40 * frame) for frame in at(4)]
    assert found["available"]["tokens"]["median_ms"] == pytest.approx(sorted(waits)[6])
    assert found["chunk_frames"] == 4


def test_a_real_stream_gives_a_frame_when_that_audio_is_there(tmp_path):
    recognizer = open_recognizer(save_tiny_model(tmp_path / "model"))
    waveform = noise_speech(2.0)
    for frame in (0, 3, 4, 11):
        needed = round(16 * available_ms(frame, Context(CHUNK_FRAMES, 8)))
        stream = recognizer.stream()
        stream.accept(waveform[: needed - 1])
        assert stream.decoded_seconds <= 0.04 * frame
        stream.accept(waveform[needed - 1 : needed])
        assert stream.decoded_seconds > 0.04 * frame


def test_posteriors_without_a_token_have_no_delay():
    found = delays([], tokens=[])
    assert found["emission"]["tokens"]["count"] == 0


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


def test_blank_alone_does_not_count_as_agreement_of_tokens():
    teacher, student = spelled([3, 4], [5, 9], 20), spelled([], [], 20)
    found = frame_agreement([(teacher, student)], 0)
    assert found["argmax_agreement"] == pytest.approx(18 / 20)
    assert found["spoken_agreement"] == 0.0


def test_nothing_to_compare_is_none():
    found = frame_agreement([], 0)
    assert (found["frames"], found["frame_kl"], found["at_best_shift"]["frame_kl"]) == (0, None, None)
