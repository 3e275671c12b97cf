"""Speakers in folds: each in one, nearly equal, the same everywhere."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.corpora.an4 import person_of
from asr_kd.corpora.corpus import balanced_folds, fold_of_utterances
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import CorpusError


def said_by(*speakers: str, seconds: float = 50.0) -> list[Utterance]:
    return [
        Utterance(f"{speaker}-{index}", Path("a.wav"), seconds, "A", speaker) for index, speaker in enumerate(speakers)
    ]


@given(
    st.dictionaries(st.text(max_size=3), st.integers(1, 30), min_size=4, max_size=20),
    st.integers(2, 4),
    st.integers(0, 9),
)
def test_folds_share_out_every_name_once_and_none_is_empty(sizes, count, seed):
    folds = balanced_folds(sizes, count, seed)
    assert sorted(name for fold in folds for name in fold) == sorted(sizes)
    assert all(folds)
    totals = [sum(sizes[name] for name in fold) for fold in folds]
    assert max(totals) - min(totals) <= max(sizes.values())


def test_a_speaker_is_in_one_fold_whatever_the_order_and_the_seed_decides_which():
    utterances = said_by(*"abcdefabcdef")
    fold_of = fold_of_utterances(utterances, 3, seed=1)
    assert fold_of == fold_of_utterances(utterances[::-1], 3, seed=1)
    for speaker in "abcdef":
        assert len({fold for name, fold in fold_of.items() if name.startswith(speaker)}) == 1
    assert sorted(fold_of.values()) == [0] * 4 + [1] * 4 + [2] * 4
    assert any(fold_of_utterances(utterances, 3, seed=seed) != fold_of for seed in range(2, 6))


def test_folds_hold_nearly_as_much_audio():
    utterances = [*said_by("long", seconds=600.0), *said_by(*"abcdefghij", seconds=60.0)]
    fold_of = fold_of_utterances(utterances, 2, seed=0)
    assert len({fold_of[f"{speaker}-{index}"] for index, speaker in enumerate("abcdefghij")}) == 1


def test_names_that_may_be_one_person_stay_together():
    utterances = said_by("mdcs", "mdcs2", "fabc", "mxyz")
    for seed in range(6):
        fold_of = fold_of_utterances(utterances, 3, seed, person_of)
        assert fold_of["mdcs-0"] == fold_of["mdcs2-1"]


def test_too_few_speakers_are_refused_by_number():
    with pytest.raises(CorpusError, match=r"2 training speakers cannot be cut into 3 folds.*at least 3 speakers"):
        fold_of_utterances(said_by(*"aabb"), 3, seed=0)
    with pytest.raises(CorpusError, match="0 training speakers"):
        fold_of_utterances([], 2, seed=0)
