"""Shown words that change, in streams whose partial results are known."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.evaluation.sample_measures import Stability, changes, measure_stability

texts = st.lists(st.sampled_from("ab"), max_size=5).map(" ".join)


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
    found = measure_stability(stream, [torch.zeros(8_000)]).plain()
    assert stream.lengths == [1_600] * 5
    assert (found["words"], found["packet_ms"]) == (4, 100)
    assert (found["revised_words"], found["revised_per_word"]) == (2, 0.5)  # for → four, five → six
    assert (found["grown_words"], found["utterances_revised"]) == (0, 1)


def test_letters_that_come_are_growth():
    found = measure_stability(Scripted(["t", "thr", "three f"], "three four"), [torch.zeros(4_800)]).plain()
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


@given(st.lists(texts, min_size=1, max_size=6))
def test_what_only_gets_longer_is_never_revised(pieces):
    partials = [" ".join(pieces[: end + 1]).split() for end in range(len(pieces))]
    found = Stability()
    found.add([" ".join(words) for words in partials])
    assert found.revised == found.grown == 0


def test_nothing_said_has_no_rate():
    found = measure_stability(Scripted(["", ""], ""), [torch.zeros(3_200)]).plain()
    assert (found["words"], found["revised_per_word"]) == (0, None)
