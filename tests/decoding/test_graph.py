"""HLG: costs of sentences against the n-gram model by hand, and the real client with a graph."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.decoding.graph import read_arpa, write_graph
from asr_kd.errors import AsrKdError, LanguageModelError
from asr_kd.export.sherpa_client import run_client
from asr_kd.runtime.bundle import MODEL, TOKENS
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_bundle import tiny_bundle
from tests.helpers.tiny_models import VOCABULARY, noise_speech

kaldifst = pytest.importorskip("kaldifst")

WORDS = ["A", "AB", "BAD", "CAB"]
ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-1.0 <s> -0.3
-0.9 </s>
-0.5 A -0.2
-0.7 AB
-0.8 BAD -0.1
-1.1 CAB

\\2-grams:
-0.2 <s> A
-0.4 A BAD
-0.6 BAD </s>

\\end\\
"""
UNIGRAMS = {"</s>": -0.9, "A": -0.5, "AB": -0.7, "BAD": -0.8, "CAB": -1.1}
BIGRAMS = {("<s>", "A"): -0.2, ("A", "BAD"): -0.4, ("BAD", "</s>"): -0.6}
BACKOFFS = {"<s>": -0.3, "A": -0.2, "BAD": -0.1}


def log_prob(sentence: list[str]) -> float:
    """Of the model above by hand, natural logarithm; a path may back off where a bigram exists: the best of both."""
    total = 0.0
    for before, word in zip(["<s>", *sentence], [*sentence, "</s>"], strict=True):
        backed_off = BACKOFFS.get(before, 0.0) + UNIGRAMS[word]
        total += max(BIGRAMS.get((before, word), -math.inf), backed_off)
    return total * math.log(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    (folder / "lm.arpa").write_text(ARPA)
    return folder


@pytest.fixture(scope="module")
def weighted(folder):
    """A graph with the n-gram model at weight 0.5 and a word score of 0.25."""
    write_graph(folder / "weighted.fst", VOCABULARY, WORDS, folder / "lm.arpa", 0.5, 0.25)
    return kaldifst.StdVectorFst.read(str(folder / "weighted.fst"))


def cost(graph, frames: list[int]) -> tuple[float, list[int]] | None:
    """The best path's cost and words for one token a frame; None where the graph does not allow them."""
    path = kaldifst.make_linear_acceptor([token + 1 for token in frames])
    found = kaldifst.compose(path, graph)
    kaldifst.connect(found)
    if found.num_states == 0:
        return None
    best = kaldifst.shortest_path(found)
    _, _, outputs, total = kaldifst.get_linear_symbol_sequence(best)
    return total.value, outputs


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=5))
def test_a_sentence_costs_what_the_model_gives(weighted, sentence):
    frames = [t for token in VOCABULARY.encode(" ".join(sentence)) for t in (token, token, VOCABULARY.blank_id)]
    found = cost(weighted, frames)
    assert found is not None
    assert found[0] == pytest.approx(-0.5 * log_prob(sentence) - 0.25 * len(sentence), abs=2e-3)
    assert [WORDS[number - 1] for number in found[1]] == sentence


@pytest.mark.parametrize("text", ["B", "AC", "BA D", "ABAD"])
def test_what_is_no_word_is_not_allowed(weighted, text):
    assert cost(weighted, [t for token in VOCABULARY.encode(text) for t in (token, VOCABULARY.blank_id)]) is None


def test_without_a_model_every_word_costs_the_same(folder):
    report = write_graph(folder / "plain.fst", VOCABULARY, WORDS, word_score=0.5)
    graph = kaldifst.StdVectorFst.read(str(folder / "plain.fst"))
    for text in ("A", "CAB", "AB BAD"):
        found = cost(graph, [t for token in VOCABULARY.encode(text) for t in (token, VOCABULARY.blank_id)])
        assert found is not None
        assert found[0] == pytest.approx(-0.5 * len(text.split()), abs=2e-3)
    assert (report.words, report.left_out) == (4, 0)
    lines = (folder / "plain.fst.words.txt").read_text().splitlines()
    assert lines[:2] == ["<eps> 0", "A 1"]


@pytest.mark.parametrize("name", ["mine.fst", "mine.fst.words.txt"])
def test_no_foreign_file_is_replaced(tmp_path, name):
    (tmp_path / name).write_text("a user's")
    (tmp_path / "mine.words.txt").write_text("A\n")  # the name of an n-gram model's words, which may be the input
    with pytest.raises(AsrKdError, match=f"{name}: exists, and asr-kd did not write it"):
        write_graph(tmp_path / "mine.fst", VOCABULARY, WORDS)
    assert (tmp_path / name).read_text() == "a user's"
    (tmp_path / name).unlink()
    for _ in range(2):
        write_graph(tmp_path / "mine.fst", VOCABULARY, WORDS)
    assert (tmp_path / "mine.words.txt").read_text() == "A\n"


def test_subwords_need_no_separator(folder):
    # Without a model to split words, spelled by its symbols: a vocabulary whose characters carry the word's beginning.
    report = write_graph(folder / "two.fst", Vocabulary(("<blk>", "A", "B")), ["A", "BA"])
    assert report.arcs > 0


def test_wrong_input_is_one_message(folder):
    with pytest.raises(LanguageModelError, match="can spell 0 of its 2 words"):
        write_graph(folder / "x.fst", VOCABULARY, ["xyz", "zyx"])
    (folder / "no.arpa").write_text("no model")
    with pytest.raises(LanguageModelError, match=r"no .* or no </s>"):
        write_graph(folder / "x.fst", VOCABULARY, WORDS, folder / "no.arpa")
    (folder / "row.arpa").write_text(ARPA.replace("-0.4 A BAD", "-0.4 A"))
    with pytest.raises(LanguageModelError, match=r"row 15 has 2 columns"):
        write_graph(folder / "x.fst", VOCABULARY, WORDS, folder / "row.arpa")
    with pytest.raises(LanguageModelError, match="cannot be read"):
        write_graph(folder / "x.fst", VOCABULARY, WORDS, folder / "missing.arpa")
    assert not (folder / "x.fst").exists()


@pytest.mark.slow
def test_the_real_client_outputs_words_of_the_graph_only(folder, tmp_path_factory):
    pytest.importorskip("sherpa_onnx")
    bundle = tiny_bundle(tmp_path_factory).forms
    write_graph(folder / "client.fst", VOCABULARY, WORDS, folder / "lm.arpa", 0.1)
    waveforms = [noise_speech(3.0, seed=seed).numpy() for seed in range(4)]
    free, limited = (
        [result.text for result in run_client(bundle / MODEL, bundle / TOKENS, waveforms, graph=graph)]
        for graph in (None, folder / "client.fst")
    )
    assert any(set(text.split()) - set(WORDS) for text in free)
    assert all(set(text.split()) <= set(WORDS) for text in limited)
    assert any(limited)


SMALL = (
    "\\data\\\nngram 1=3\nngram 2=1\n\n"
    "\\1-grams:\n-1\t</s>\n-99\t<s>\t-0.3\n-1\tA\t-0.3\n\n\\2-grams:\n-0.5\t<s> A\n\n\\end\\\n"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("-0.5\t<s> A\n", "", "has 0 different 2-grams; expected 1, as in its header"),
        ("-1\tA", "-1\t</s>", "has 2 different 1-grams; expected 3"),
        ("-1\tA", "nan\tA", "row 8 has a probability of nan"),
        ("-1\tA", "2\tA", "row 8 has a probability of 2, backoff -0.3"),
        ("A\t-0.3", "A\tnan", "row 8 has a probability of -1, backoff nan"),
    ],
)
def test_a_model_with_missing_rows_or_impossible_numbers_is_refused(tmp_path, old, new, message):
    path = tmp_path / "words.arpa"
    path.write_text(SMALL)
    assert len(read_arpa(path)) == 4
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(LanguageModelError, match=message):
        read_arpa(path)
