"""Partial results, words in silence, and systems whose delay is known, in results.json and in a matrix."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.corpora.recordings import read_utterance
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.open_systems import open_system, open_teacher_system
from asr_kd.evaluation.sample_measures import (
    IS_TEACHER,
    NO_TEACHER,
    ROOM_DBFS,
    Sample,
    changes,
    measure_set,
    measure_silence,
    measure_stability,
    silence,
    transcribe_live,
)
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.sweeps import can_change_context, context_matrix, in_context, trained_contexts
from asr_kd.evaluation.system import System
from asr_kd.models.settings import Context
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.scoring.wer import score
from tests.helpers.spelled import SpellingTeacher
from tests.helpers.tiny_models import CHUNK_FRAMES, LEFT_CONTEXT_FRAMES, save_tiny_model

PARTIALS = st.lists(st.sampled_from("ab"), max_size=5).map(" ".join)


class Scripted:
    """A stream with given partial results, packet by packet."""

    def __init__(self, partials, final):
        self.partials, self.end = iter(partials), final
        self.lengths = []

    def stream(self):
        return self

    def accept(self, samples):
        self.lengths.append(len(samples))
        return next(self.partials)

    def final(self):
        return self.end


def test_one_flip_of_four_words_is_a_quarter():
    stream = Scripted(["", "for", "four five", "four six", "four six seven"], "four six seven eight")
    found = measure_stability(stream, [torch.zeros(8_000)])
    assert stream.lengths == [1_600] * 5
    assert (found["words"], found["packet_ms"]) == (4, 100)
    assert (found["revised_words"], found["revised_per_word"]) == (2, 0.5)  # for → four, five → six
    assert (found["grown_words"], found["utterances_revised"]) == (0, 1)


def test_letters_that_come_are_growth():
    found = measure_stability(Scripted(["t", "thr", "three f"], "three four"), [torch.zeros(4_800)])
    assert (found["revised_words"], found["grown_words"], found["grown_per_word"]) == (0, 3, 1.5)
    assert found["utterances_revised"] == 0


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("", "", (0, 0)),
        ("", "a", (0, 0)),
        ("a b", "a b c", (0, 0)),
        ("a b", "a bc", (0, 1)),
        ("a b", "a", (1, 0)),
        ("a b c", "x b c", (3, 0)),
        ("a b c", "a bb c", (2, 0)),  # what follows has to be read again
    ],
)
def test_known_changes(before, after, expected):
    assert changes(before.split(), after.split()) == expected


@given(st.lists(PARTIALS, min_size=1, max_size=6))
def test_what_only_gets_longer_is_never_revised(pieces):
    partials = [" ".join(pieces[: end + 1]).split() for end in range(len(pieces))]
    assert all(changes(before, after) == (0, 0) for before, after in pairwise(partials))


def test_no_words_have_no_rate():
    found = measure_stability(Scripted(["", ""], ""), [torch.zeros(3_200)])
    assert (found["words"], found["revised_per_word"]) == (0, None)


class ExtraWords:
    """Writes a word for each second, and one more for digital silence."""

    def transcribe(self, waveforms):
        texts = []
        for waveform in waveforms:
            text = "One, two"
            if len(waveform) > 16_000 and not waveform[-100:].any():
                text += " uh uh"
            elif len(waveform) > 16_000:
                text = "one too"
            texts.append(text)
        return texts


def test_extra_lost_and_changed_words():
    found = measure_silence(ExtraWords().transcribe, [torch.ones(16_000)] * 3, 2.0, "librispeech")
    assert (found["seconds"], found["utterances"]) == (2.0, 3)
    assert found["digital"] == {"extra_words": 6, "lost_words": 0, "changed_words": 0, "utterances_with_extra": 3}
    assert found["room"] == {"extra_words": 0, "lost_words": 0, "changed_words": 3, "utterances_with_extra": 0}


def test_silence_is_silent():
    assert not silence("digital", 2.0).any()
    room = silence("room", 2.0)
    assert len(room) == 32_000
    assert 10 * torch.log10(room.square().mean()) == pytest.approx(ROOM_DBFS, abs=0.1)
    assert torch.equal(room, silence("room", 2.0))
    assert not torch.equal(room, silence("room", 2.0, 1))


class Restarting:
    """Streams that end an utterance after each second of silence and write a word at the start of each in zeros."""

    class Ended:
        def __init__(self, text):
            self.text = text

    def stream(self, *, cut_at_endpoints=False):
        assert cut_at_endpoints
        self.heard, self.ended = [], []
        return self

    def accept(self, samples):
        self.heard.append(samples)

    def final(self):
        audio = torch.cat(self.heard)
        seconds = int((~audio.bool()).sum()) // 16_000
        self.ended = [self.Ended("yes no"), *(self.Ended("s") for _ in range(seconds))]
        return ""

    def take_utterances(self):
        return self.ended


def test_words_after_endpoints_in_silence_count():
    found = measure_silence(partial(transcribe_live, Restarting()), [torch.ones(16_000)] * 2, 5.0, "none")
    assert (found["seconds"], found["utterances"]) == (5.0, 2)
    assert found["digital"] == {"extra_words": 10, "lost_words": 0, "changed_words": 0, "utterances_with_extra": 2}
    assert found["room"]["extra_words"] == 0


SETTINGS = EvaluationSettings(normalizer="none", bootstrap_samples=200, silence_seconds=0.5)


@pytest.fixture
def texts(utterances):
    return {round(utterance.duration * 16_000): utterance.text for utterance in utterances}


@pytest.fixture
def late(texts):
    """A teacher, and a student that emits the same three frames later."""
    return [
        open_teacher_system("t", SpellingTeacher(texts)),
        open_teacher_system("s", SpellingTeacher(texts, late=3, sha256="e" * 64), role="student_kd"),
    ]


def measured(systems, teachers, sample):
    """What `measure_set` adds to an empty entry, and the agreement."""
    entry = {"agreement": {}, **{system.key: {} for system in systems}}
    measure_set(entry, systems, teachers, sample)
    return entry, entry["agreement"]


def test_three_frames_later_is_120_ms_and_the_best_shift(late, utterances):
    found, agreement = measured(late, {"student_kd": "teacher"}, Sample(utterances, SETTINGS))
    delay = found["student_kd"]["delay"]
    assert delay["against"] == "teacher"
    assert delay["emission"]["tokens"]["median_ms"] == delay["emission"]["end_of_speech"]["p90_ms"] == 120.0
    assert delay["emission"]["tokens"]["count"] == delay["reference_tokens"] == sum(len(u.text) for u in utterances)
    assert (delay["utterances"], delay["not_aligned"]) == (5, 1)  # one is empty
    assert agreement["student_kd"]["at_best_shift"]["shift_ms"] == 120
    assert agreement["student_kd"]["at_best_shift"]["argmax_agreement"] == 1.0
    assert agreement["student_kd"]["spoken_agreement"] < 0.2
    assert (found["teacher"]["delay"], found["teacher"]["delay_reason"]) == (None, IS_TEACHER)
    assert found["teacher"]["stability_reason"] == "it does not stream"
    assert set(agreement) == {"student_kd"}


def test_the_teacher_runs_once_for_all_its_students(late, utterances):
    sample = Sample(utterances, SETTINGS)
    calls = []
    teacher = late[0].recognizer.teacher
    original = teacher.log_probs
    teacher.log_probs = lambda *given: calls.append(1) or original(*given)
    sample.against(late[0], late[1])
    sample.against(late[0], late[1])
    assert len(calls) == len(utterances)


def test_what_cannot_be_measured_has_a_reason(late, utterances, stored):
    sample = Sample(utterances, SETTINGS.model_copy(update={"silence_seconds": 0.0}))
    text_only = System("text", "student_hard", stored())
    delay, frames = sample.against(late[0], text_only)
    assert delay == {"delay": None, "delay_reason": "student_hard: it gives text, not posteriors"}
    assert frames["frame_kl"] is None
    assert sample.against(None, late[1])[0]["delay_reason"] == NO_TEACHER
    assert sample.system(text_only)["trailing_silence_reason"] == "evaluate.silence_seconds is 0"
    found, agreement = measured([text_only], {}, sample)
    assert (found["student_hard"]["delay_reason"], agreement) == (NO_TEACHER, {})


def test_a_teacher_with_other_symbols_is_bridged_or_has_a_reason(late, utterances, tmp_path):
    student = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    delay, frames = Sample(utterances, SETTINGS).against(late[0], student)
    assert "cannot be mapped" in delay["delay_reason"]
    assert "cannot be mapped" in frames["frame_kl_reason"]


def test_a_streaming_model_is_stable_and_has_a_delay(tmp_path, utterances):
    teacher = open_system("t", "teacher", save_tiny_model(tmp_path / "t", streaming=False))
    student = open_system("s", "student_kd", save_tiny_model(tmp_path / "s"))
    found, agreement = measured([teacher, student], {"student_kd": "teacher"}, Sample(utterances[:3], SETTINGS))
    stability = found["student_kd"]["stability"]
    assert stability["utterances"] == 3
    assert stability["revised_words"] == 0  # greedy emissions are never taken back
    assert found["student_kd"]["delay"]["chunk_frames"] == CHUNK_FRAMES
    assert "room" in found["student_kd"]["trailing_silence"]
    assert agreement["student_kd"]["frame_kl"] > 0


@pytest.fixture
def words_of_the_model(tmp_path, utterances):
    """A streaming model that is right: the references are its own transcripts."""
    folder = save_tiny_model(tmp_path / "model")
    recognizer = open_recognizer(folder)
    texts = recognizer.transcribe([read_utterance(utterance) for utterance in utterances])
    right = [type(u)(u.id, u.audio, u.duration, text, u.speaker) for u, text in zip(utterances, texts, strict=True)]
    assert sum(len(text.split()) for text in texts) > 3
    return open_system("s", "student_kd", folder), right


def test_the_matrix_has_its_own_context_as_it_was_and_others_as_they_are(words_of_the_model):
    system, right = words_of_the_model
    contexts = (Context(CHUNK_FRAMES, LEFT_CONTEXT_FRAMES), Context(2, 4), Context(16, 8), Context(2, 4, 3))
    settings = SETTINGS.model_copy(update={"matrix": contexts})
    teacher = open_teacher_system("t", SpellingTeacher({}))
    rows = context_matrix(system, "dev", right, Sample(right, settings), teacher)
    keys = ("chunk_frames", "left_context_frames", "right_context_frames")
    assert [tuple(row[key] for key in keys) for row in rows] == list(contexts)
    assert rows[0]["wer"] == 0.0
    assert [row["trained"] for row in rows] == [True, False, False, False]
    assert "cannot be mapped" in rows[0]["delay_reason"]
    # The same as streaming with that context, and not as with its own.
    for row, context in ((rows[1], contexts[1]), (rows[3], contexts[3])):
        streamed = {}
        for utterance in right:
            stream = in_context(system, context).recognizer.stream()
            stream.accept(read_utterance(utterance))
            streamed[utterance.id] = stream.final()
        assert row["wer"] == score({u.id: u.text for u in right}, streamed, "none").wer > 0
    assert system.recognizer.context == contexts[0]


def test_who_can_stand_in_the_matrix(words_of_the_model, tmp_path, late):
    system, _ = words_of_the_model
    full = open_system("t", "teacher", save_tiny_model(tmp_path / "t", streaming=False))
    assert [can_change_context(each) for each in (system, full, late[0])] == [True, False, False]
    assert (trained_contexts(system), trained_contexts(full)) == (
        {Context(CHUNK_FRAMES, LEFT_CONTEXT_FRAMES)},
        set(),
    )


def test_what_the_settings_request_is_measured(late, utterances, tmp_path):
    settings = EvaluationSettings(
        normalizer="none", bootstrap_samples=200, sample_utterances=2, silence_seconds=0, matrix=[[2, 4]],
        robustness=["gain:-6"], sweep_utterances=3, rtf_utterances=0, memory=False,
    )  # fmt: skip
    found = evaluate_systems(late, {"dev": utterances}, settings, tmp_path / "report")
    assert found.sets["dev"]["student_kd"]["delay"]["utterances"] == 2
    assert found.sets["dev"]["agreement"]["student_kd"]["frame_kl"] >= 0
    assert found.sets["dev"]["agreement"]["student_kd"]["both_words"] > 0
    assert found.summary["matrix"] == {}  # none of the two is a chunked model
    assert [row["utterances"] for row in found.summary["robustness"]["student_kd"]] == [3, 3]
    off = settings.model_copy(update={"sample_utterances": 0, "matrix": (), "robustness": False})
    nothing = evaluate_systems(late, {"dev": utterances}, off, tmp_path / "report")
    assert "delay" not in nothing.sets["dev"]["student_kd"]
    assert (nothing.summary["matrix"], nothing.summary["robustness"]) == ({}, {})
