import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import TargetsError
from asr_kd.targets.pseudo_label_filters import Label, LabelFilters, apply_filters, longest_repeat

OFF = LabelFilters(
    **{name: None for name in LabelFilters.model_fields if name != "max_filtered_share"}, max_filtered_share=0.99
)


def label(text: str = "ONE TWO THREE", **measures) -> Label:
    return Label(**{"text": text, "seconds": 1.0, **measures})


@pytest.mark.parametrize(
    ("name", "threshold", "good", "bad"),
    [
        ("min_avg_logprob", -1.0, {"avg_logprob": -0.3}, {"avg_logprob": -1.5}),
        ("max_no_speech_prob", 0.6, {"no_speech_prob": 0.1}, {"no_speech_prob": 0.9}),
        ("max_compression_ratio", 2.4, {"compression_ratio": 1.2}, {"compression_ratio": 9.0}),
        ("max_repeats", 5, {"text": "NO NO NO"}, {"text": "THANK YOU " * 6}),
        ("min_characters_per_second", 5.0, {"seconds": 1.0}, {"seconds": 10.0}),
        ("max_characters_per_second", 30.0, {"seconds": 1.0}, {"seconds": 0.1}),
        ("min_language_prob", 0.5, {"language_prob": 0.9}, {"language_prob": 0.2}),
        ("max_disagreement", 0.4, {"second_text": "ONE TWO TREE"}, {"second_text": "GO AWAY"}),
        ("max_transcript_wer", 0.4, {"transcript": "ONE TWO TREE"}, {"transcript": "GO AWAY"}),
        ("min_reading_margin", 2.0, {"reading_margin": 3.0}, {"reading_margin": 0.5}),
    ],
)
def test_each_filter_alone(name, threshold, good, bad):
    labels = {"good": label(**good), "bad": label(**bad), "unknown": label()}
    report = apply_filters(labels, OFF.model_copy(update={name: threshold}))
    assert report.removed == {"bad": name}
    assert report.steps[-1].name == name


def test_empty_and_untrainable_labels_are_removed_whatever_the_thresholds():
    labels = {"good": label(), "empty": label(" "), "letters": label("ÄÖ", problem="characters outside the alphabet")}
    removed = apply_filters(labels, OFF).removed
    assert removed == {"empty": "empty", "letters": "alphabet and length for CTC"}


def test_the_table_has_hours_and_wer_before_and_after():
    labels = {
        "right": label("A B", seconds=1800.0, avg_logprob=-0.1, transcript="A B"),
        "wrong": label("C D", seconds=1800.0, avg_logprob=-2.0, transcript="A B"),
    }
    report = apply_filters(labels, OFF.model_copy(update={"min_avg_logprob": -1.0}))
    first, last = report.steps[0], report.steps[-1]
    assert (first.kept, first.hours, first.wer) == (2, 1.0, 0.5)
    assert (last.kept, last.hours, last.wer) == (1, 0.5, 0.0)
    assert "50.00" in report.lines()[1]


def test_without_transcripts_there_is_no_wer():
    assert apply_filters({"a": label()}, OFF).steps[0].wer is None


def test_too_much_filtered_stops_and_names_the_filter():
    labels = {str(index): label(no_speech_prob=0.9 if index else 0.0) for index in range(10)}
    with pytest.raises(TargetsError, match=r"most fail max_no_speech_prob"):
        apply_filters(labels, LabelFilters())
    apply_filters(labels, LabelFilters(max_filtered_share=0.95))


def test_nothing_to_filter_is_refused():
    with pytest.raises(TargetsError, match="no pseudo-labels"):
        apply_filters({}, LabelFilters())


@given(st.lists(st.sampled_from("AB"), min_size=1, max_size=3), st.integers(1, 8))
def test_a_repeated_phrase_is_counted(phrase, times):
    assert longest_repeat(" ".join(phrase * times)) >= times


@pytest.mark.parametrize(("text", "times"), [("", 0), ("ONE", 1), ("ONE TWO THREE", 1), ("A B A B A B", 3)])
def test_repeats_of_known_texts(text, times):
    assert longest_repeat(text) == times


@given(st.lists(st.sampled_from("abc"), max_size=40))
def test_repetitions_are_counted_as_by_comparing_every_phrase(words):
    most = min(len(words), 1)
    for length in range(1, 5):
        for start in range(len(words) - length + 1):
            times = 1
            while words[start + times * length : start + (times + 1) * length] == words[start : start + length]:
                times += 1
            most = max(most, times)
    assert longest_repeat(" ".join(words)) == most


def test_a_text_of_hours_that_repeats_one_word_takes_no_hours():
    assert longest_repeat("la " * 100_000) == 100_000
