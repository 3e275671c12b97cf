"""Tuning finds the weights that make fewest errors on dev, computes posteriors once, and prints what it tried."""

import pytest
import torch

from asr_kd.decoding.beam import BeamSearch
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.evaluation.tuning import DevSet, GridPoint, tune
from asr_kd.text.kneser_ney import estimate
from asr_kd.text.vocabulary import Vocabulary

LETTERS = Vocabulary(("<blk>", "▁", "A", "B"))


@pytest.fixture
def search(tmp_path):
    """A model in which B always follows A."""
    (tmp_path / "lm.arpa").write_text("".join(estimate(["A B"] * 6 + ["B", "A B A B"], 2).arpa_lines()))
    (tmp_path / "words.txt").write_text("A\nB\n")
    return BeamSearch(
        LETTERS, DecodingSettings(kind="beam", lm=tmp_path / "lm.arpa", lexicon=tmp_path / "words.txt", beam_size=20)
    )


def frames_of(*words: str, doubt: float) -> torch.Tensor:
    """[T, V]: these words, the last one in doubt; "?" is closer to A than to B."""
    rows = []
    for word in words:
        row = [0.0, 0.0, 1.0, 0.0] if word == "A" else [0.0, 0.0, 0.0, 1.0]
        rows += [[0.0, 0.0, 0.5 + doubt, 0.5 - doubt] if word == "?" else row, [1, 0, 0, 0], [0, 1, 0, 0]]
    return (torch.tensor(rows, dtype=torch.float32) + 1e-5).log().log_softmax(-1)


def test_the_language_model_gets_the_weight_that_it_deserves(search):
    dev = DevSet(
        {"1": frames_of("A", "?", doubt=0.3), "2": frames_of("A", "?", doubt=0.2)},
        {"1": "a b", "2": "A B"},
    )
    calls = []
    tuning = tune(search, dev, "librispeech", (0.0, 2.0), (0.0, 1.0), lambda done, total: calls.append((done, total)))
    assert tuning.greedy_wer == 0.5
    assert tuning.best.errors == 0
    assert tuning.best.lm_weight > 0
    points = {(item.lm_weight, item.word_score): item.errors for item in tuning.tried}
    assert points[0.0, 0.0] == 2
    assert len(points) == len(tuning.tried) > 4, "the neighbourhood of the best is tried too"
    assert calls[-1][0] == len(points)
    # Of equally good ones the smallest weight.
    assert all(item.lm_weight >= tuning.best.lm_weight for item in tuning.tried if item.errors == 0)


def test_a_table_shows_every_point_and_marks_the_best(search):
    dev = DevSet({"1": frames_of("A", "?", doubt=0.3)}, {"1": "A B"})
    tuning = tune(search, dev, "none", (0.0, 2.0), (0.0,))
    lines = tuning.lines()
    assert lines[0].split() == ["lm_weight", "\\", "word_score", "0"]
    assert len(lines) == 1 + len({item.lm_weight for item in tuning.tried})
    assert sum(line.count("*") for line in lines) == 1
    assert "100.00" not in "".join(lines)
    assert "50.00" in "".join(lines)


def test_a_lexicon_without_the_words_of_dev_is_worse_than_greedy(tmp_path):
    (tmp_path / "words.txt").write_text("BA\n")
    search = BeamSearch(LETTERS, DecodingSettings(kind="beam", lexicon=tmp_path / "words.txt"))
    dev = DevSet({"1": frames_of("A", "B", doubt=0)}, {"1": "A B"})
    tuning = tune(search, dev, "none", word_scores=(0.0,))
    assert tuning.is_worse_than_greedy
    (tmp_path / "words.txt").write_text("A\nB\n")
    search = BeamSearch(LETTERS, DecodingSettings(kind="beam", lexicon=tmp_path / "words.txt"))
    assert not tune(search, dev, "none", word_scores=(0.0,)).is_worse_than_greedy


def test_no_weight_is_tried_that_decoding_refuses(search):
    dev = DevSet({"1": frames_of("A", "?", doubt=0.3)}, {"1": "A B"})
    tuning = tune(search, dev, "none", (16.0, 20.0), (18.0, 20.0))
    assert {item.lm_weight for item in tuning.tried} <= {14.0, 16.0, 18.0, 20.0}
    assert max(item.word_score for item in tuning.tried) <= 20


def test_without_a_language_model_only_the_word_score_is_tuned(tmp_path):
    (tmp_path / "words.txt").write_text("A\nB\nAB\n")
    search = BeamSearch(LETTERS, DecodingSettings(kind="beam", lexicon=tmp_path / "words.txt"))
    tuning = tune(
        search, DevSet({"1": frames_of("A", "B", doubt=0)}, {"1": "A B"}), "none", (0.0, 1.0, 2.0), (0.0, 1.0)
    )
    assert {item.lm_weight for item in tuning.tried} == {0.0}
    assert isinstance(tuning.best, GridPoint)
    assert tuning.best.errors == 0
