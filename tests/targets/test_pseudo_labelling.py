from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from asr_kd.corpora.manifest import Utterance
from asr_kd.features.fbank import num_frames
from asr_kd.models.layers import output_len
from asr_kd.posteriors import DensePosteriors
from asr_kd.targets.pseudo_label_filters import LabelFilters
from asr_kd.targets.pseudo_labelling import (
    PseudoLabelSettings,
    ctc_reading_scorer,
    in_share,
    make_pseudo_labels,
)
from asr_kd.teachers.whisper_transcriber import Transcription
from asr_kd.text.vocabulary import Vocabulary

ANY = "librispeech"
SETTINGS = PseudoLabelSettings(source="whisper:base")


def utterance(id_: str, text: str | None = None, seconds: float = 3.0) -> Utterance:
    return Utterance(id_, Path(f"{id_}.flac"), seconds, text, "speaker")


def whisper(text: str, **measures) -> Transcription:
    return Transcription(
        **{
            "text": text,
            "avg_logprob": -0.2,
            "no_speech_prob": 0.01,
            "compression_ratio": 1.0,
            "temperature": 0.0,
            "language": "en",
            "language_prob": 1.0,
            **measures,
        }
    )


def test_texts_are_verbalized_and_normalized():
    found = make_pseudo_labels({"a": whisper("Enter 42.")}, [utterance("a")], SETTINGS, ANY)
    assert found.texts == {"a": "ENTER FORTY TWO"}


def test_a_ctc_score_chooses_the_reading_and_an_unclear_one_is_dropped():
    def prefers_digits(_, readings):
        return [float("FOUR TWO" in reading) * 10.0 for reading in readings]

    settings = SETTINGS.model_copy(update={"filters": LabelFilters(min_reading_margin=2.0, max_filtered_share=0.9)})
    written = {"a": whisper("Enter 42."), "b": whisper("Hello")}
    both = [utterance("a"), utterance("b")]
    found = make_pseudo_labels(written, both, settings, ANY, score_readings=prefers_digits)
    assert found.texts["a"] == "ENTER FOUR TWO"
    unclear = make_pseudo_labels(written, both, settings, ANY, score_readings=lambda _, readings: [0.0] * len(readings))
    assert unclear.report.removed == {"a": "min_reading_margin"}


def test_two_systems_agree_when_one_reading_fits_both():
    settings = SETTINGS.model_copy(update={"filters": LabelFilters(max_disagreement=0.0, max_filtered_share=0.9)})
    first = {"a": whisper("at 305"), "b": whisper("good morning")}
    second = {"a": whisper("at three oh five"), "b": whisper("good evening")}
    both = [utterance("a"), utterance("b")]

    def prefers_oh(_, readings):
        return [float("OH" in reading) for reading in readings]

    found = make_pseudo_labels(first, both, settings, ANY, second=second, score_readings=prefers_oh)
    assert found.texts == {"a": "AT THREE OH FIVE"}


def test_letters_outside_the_vocabulary_and_texts_too_long_for_ctc_are_removed():
    written = {"good": whisper("ab"), "letters": whisper("xyz"), "long": whisper("abc abc abc")}
    utterances = [utterance(id_, seconds=0.3) for id_ in written]
    found = make_pseudo_labels(written, utterances, SETTINGS, ANY, Vocabulary.characters(["AB C"]))
    assert list(found.texts) == ["good"]


def test_a_share_of_the_transcripts_is_used_as_it_is():
    utterances = [utterance(str(index), "THE TRANSCRIPT") for index in range(200)]
    written = {item.id: whisper("the label") for item in utterances}
    settings = SETTINGS.model_copy(update={"transcript_share": 0.1})
    found = make_pseudo_labels(written, utterances, settings, ANY)
    kept = [id_ for id_, text in found.texts.items() if text == "THE TRANSCRIPT"]
    assert 5 < len(kept) == len(found.own_transcripts) < 40
    assert len(found.texts) == 200


def test_shares_are_nested():
    ids = [str(index) for index in range(500)]
    small, large = ({id_ for id_ in ids if in_share(id_, share)} for share in (0.1, 0.3))
    assert small < large
    assert {id_ for id_ in ids if in_share(id_, 1.0)} == set(ids)


class OneWord:
    """A CTC model that is nearly certain of A B."""

    vocabulary = Vocabulary.characters(["AB"])

    def log_probs(self, waveforms, sample_lens):
        logits = torch.zeros(1, 6, len(self.vocabulary))
        for frame, symbol in enumerate("AB"):
            logits[0, 2 * frame, self.vocabulary.encode(symbol)[0]] = 8.0
        logits[0, 1, 0] = logits[0, 3:, 0] = 8.0
        return DensePosteriors(logits.log_softmax(-1), torch.tensor([6]))


def test_the_ctc_scorer_prefers_what_the_model_recognises():
    score = ctc_reading_scorer(OneWord(), "librispeech", lambda _: torch.zeros(16_000))
    right, wrong, unknown = score(utterance("a"), ["ab", "ba", "xyz"])
    assert right > wrong + 5
    assert unknown == float("-inf")


def test_no_sample_is_lost_to_rounding_where_every_frame_is_needed():
    samples = 129_040  # 8.065 · 16,000 is a little less in floating point, and one sample less gives one frame less
    frames = output_len(num_frames(samples))
    assert output_len(num_frames(samples - 1)) == frames - 1
    text = ("AB" * frames)[:frames]
    labelled = make_pseudo_labels(
        {"u": whisper(text)},
        [utterance("u", seconds=samples / 16_000)],
        SETTINGS.model_copy(update={"verbalize": False}),
        ANY,
        Vocabulary.characters(["AB"]),
    )
    assert labelled.texts == {"u": text}


def test_audio_too_short_for_the_ctc_model_takes_the_most_usual_reading():
    class TooShort(OneWord):
        def log_probs(self, waveforms, sample_lens):
            return DensePosteriors(torch.zeros(1, 0, len(self.vocabulary)), torch.tensor([0]))

    score = ctc_reading_scorer(TooShort(), "librispeech", lambda _: torch.zeros(100))
    assert score(utterance("a"), ["ab", "ba"]) == [float("-inf")] * 2


@pytest.mark.parametrize("source", ["base", "whisper:", "hf:openai/whisper-base"])
def test_another_source_is_refused(source):
    with pytest.raises(ValidationError, match="whisper:"):
        PseudoLabelSettings(source=source)
