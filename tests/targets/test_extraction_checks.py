"""The look at a teacher before extraction: a right one passes, a wrong one is stopped with words that help."""

from dataclasses import replace

import pytest
import torch

from asr_kd.errors import TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.targets.bridge import bridge
from asr_kd.targets.extraction_checks import SanitySettings, check_teacher_wer
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.fake_teacher import FakeTeacher

VOCABULARY = Vocabulary(("<blk>", "<s>", "▁", *"ABC"))
EVERYTHING = SanitySettings(utterances=100)


class ConstantTeacher(FakeTeacher):
    """Emits the same text for any audio, a token a second frame; `<s>` always has a little probability."""

    def __init__(self, text: str, vocabulary: Vocabulary = VOCABULARY) -> None:
        super().__init__()
        self.vocabulary, self.text, self.computed = vocabulary, text, 0

    def log_probs(self, waveforms: torch.Tensor, sample_lens: torch.Tensor) -> DensePosteriors:
        self.computed += len(sample_lens)
        tokens = self.vocabulary.encode(self.text)
        probs = torch.full((len(sample_lens), 2 * len(tokens) + 1, len(self.vocabulary)), 0.002)
        probs[..., 0] = 1.0
        for index, token in enumerate(tokens):
            probs[:, 2 * index, [0, token]] = torch.tensor([0.002, 1.0])
        probs = probs / probs.sum(-1, keepdim=True)
        return DensePosteriors(probs.log(), torch.full((len(sample_lens),), probs.shape[1]))


@pytest.fixture
def spoken(corpus):
    """All have the transcript "ab ab"."""
    return [replace(utterance, text="ab ab") for utterance in corpus]


def test_a_teacher_that_emits_the_transcript_passes(spoken):
    lines = check_teacher_wer(ConstantTeacher("AB AB"), spoken, "librispeech", EVERYTHING)
    assert len(lines) == 5
    assert "9 utterances, greedy: WER 0.0 %, CER 0.0 %" in lines[0]
    assert "ref: AB AB" in lines[1]
    assert "hyp: AB AB" in lines[2]


def test_a_wrong_label_map_stops_the_run_with_what_it_may_be(spoken):
    with pytest.raises(TargetsError) as caught:
        check_teacher_wer(ConstantTeacher("BC BC"), spoken, "librispeech", EVERYTHING)
    message = str(caught.value)
    for words in (
        "100.0 % of the words",
        "reference 'AB AB', hypothesis 'BC BC'",
        "at most 80 %",
        "label map",
        "sample rate",
    ):
        assert words in message
    assert "another language" in message
    assert "raise sanity.max_wer" in message


def test_the_threshold_is_a_setting(spoken):
    half_wrong = ConstantTeacher("AB BB")
    assert "WER 50.0 %" in check_teacher_wer(half_wrong, spoken, "librispeech", EVERYTHING)[0]
    with pytest.raises(TargetsError, match="at most 40 %"):
        check_teacher_wer(half_wrong, spoken, "librispeech", SanitySettings(max_wer=0.4))
    empty = ConstantTeacher("")
    assert "WER 100.0 %" in check_teacher_wer(empty, spoken, "librispeech", SanitySettings(max_wer=1.0))[0]


def test_the_normalizer_is_that_of_the_evaluation(spoken):
    """Without one the transcripts stay in lower case, which this teacher does not write."""
    with pytest.raises(TargetsError, match=r"100\.0 % of the words"):
        check_teacher_wer(ConstantTeacher("AB AB"), spoken, "none", EVERYTHING)


def test_without_transcripts_the_report_states_that_nothing_was_checked(corpus):
    untold = [replace(utterance, text=None if index % 2 else " . ") for index, utterance in enumerate(corpus)]
    teacher = ConstantTeacher("AB")
    unchecked = ["teacher not checked: no transcribed utterance that could be read in the sample"]
    assert check_teacher_wer(teacher, untold, "librispeech", EVERYTHING) == unchecked
    assert teacher.computed == 0
    assert check_teacher_wer(teacher, corpus, "librispeech", SanitySettings(utterances=0)) == unchecked


def test_the_sample_is_spread_evenly_over_the_ids(spoken):
    computed = []
    teacher = ConstantTeacher("AB AB")
    original = teacher.log_probs

    def log_probs(waveforms, sample_lens):
        computed.extend(sample_lens.tolist())
        return original(waveforms, sample_lens)

    teacher.log_probs = log_probs
    lines = check_teacher_wer(teacher, spoken[::-1], "librispeech", SanitySettings(utterances=3))
    assert "on 3 utterances" in lines[0]
    by_id = sorted(spoken, key=lambda utterance: utterance.id)
    assert sorted(computed) == sorted(round(by_id[index].duration * 16_000) for index in (1, 4, 7))


def test_unreadable_audio_is_counted_and_left_to_extraction(spoken):
    spoken[0].audio.write_bytes(b"not audio")
    lines = check_teacher_wer(ConstantTeacher("AB AB"), spoken, "librispeech", EVERYTHING)
    assert "on 8 utterances (1 unreadable ones left out), greedy: WER 0.0 %" in lines[0]
    for utterance in spoken:
        utterance.audio.write_bytes(b"not audio")
    (line,) = check_teacher_wer(ConstantTeacher("AB AB"), spoken, "librispeech", EVERYTHING)
    assert line.startswith("teacher not checked")


def test_the_mass_that_a_bridge_drops_is_reported(spoken):
    """As a bridged teacher is checked: its words in the student's letters, and the probability that found no place."""
    spoken = [replace(utterance, audio=spoken[-1].audio, duration=spoken[-1].duration) for utterance in spoken]
    student = Vocabulary.characters(["ABC"])
    bridged = bridge(Long("AB AB"), student)
    lines = check_teacher_wer(bridged, spoken, "librispeech", EVERYTHING)
    assert "WER 0.0 %" in lines[0]
    assert bridged.unmapped_mass == pytest.approx(0.002, rel=0.02)
    assert lines[-1].startswith("  0.19")
    assert "check the symbols" in lines[-1]


class Long(ConstantTeacher):
    """As many frames as its audio has."""

    def log_probs(self, waveforms: torch.Tensor, sample_lens: torch.Tensor) -> DensePosteriors:
        dense, _ = super().log_probs(waveforms, sample_lens)
        lens = sample_lens // 640
        rest = dense[:, -1:].expand(-1, int(lens.max()) - dense.shape[1], -1)
        return DensePosteriors(torch.cat([dense, rest], 1), lens)
