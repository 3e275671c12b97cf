"""Symbol maps: what finds its counterpart, what goes to the blank, and what is refused with which words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import VocabularyError
from asr_kd.targets.bridge_vocabulary import map_symbols
from asr_kd.text.vocabulary import Vocabulary

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
STUDENT = Vocabulary.characters([LETTERS.upper()])
WAV2VEC2 = Vocabulary(("<blk>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"))
"""As facebook's models come, their <pad> being the blank."""
BPE = Vocabulary(("<blk>", "<unk>", "▁THE", "▁A", "S", "▁", "ING"))


def vocabulary(symbols: str) -> Vocabulary:
    return Vocabulary(("<blk>", *symbols))


def random_log_probs(seed: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, size, generator=generator).log_softmax(-1)


def test_wav2vec2s_letters_find_the_students():
    symbols = map_symbols(WAV2VEC2, STUDENT)
    assert symbols.unmapped == ("<s>", "</s>", "<unk>")
    assert symbols.never_emitted == ()
    assert not symbols.exact, "four of the teacher's become one"
    assert symbols.describe()["renamed"] == {"|": "▁"}
    for old, token in zip(WAV2VEC2.symbols, symbols.table, strict=True):
        if token is not None:
            assert STUDENT.symbols[token] == ("▁" if old == "|" else old)


def test_case_separator_and_blank_position_are_an_exact_table():
    teacher = Vocabulary(("|", *LETTERS, "<blk>"))
    symbols = map_symbols(teacher, STUDENT)
    assert symbols.exact
    assert not symbols.identical
    assert symbols.unmapped == symbols.never_emitted == ()
    log_probs = random_log_probs(0, len(teacher))
    mapped = symbols.apply(log_probs)
    torch.testing.assert_close(mapped[..., STUDENT.blank_id], log_probs[..., -1])
    torch.testing.assert_close(mapped[..., STUDENT.symbols.index("Q")], log_probs[..., teacher.symbols.index("q")])
    assert mapped.exp().sort(-1).values.equal(log_probs.exp().sort(-1).values)
    assert map_symbols(STUDENT, STUDENT).identical


def test_what_has_no_counterpart_becomes_blank():
    """<s> and a listed mark: not spoken, and nothing beside them grows."""
    teacher = Vocabulary(("<blk>", "▁", "A", "B", ",", "<s>"))
    symbols = map_symbols(teacher, vocabulary("▁AB"), ignore=(",",))
    log_probs = torch.tensor([0.1, 0.1, 0.2, 0.1, 0.3, 0.2]).log()
    torch.testing.assert_close(symbols.apply(log_probs).exp(), torch.tensor([0.6, 0.1, 0.2, 0.1]))
    assert float(symbols.unmapped_mass(log_probs)) == pytest.approx(0.5)
    assert symbols.describe()["to_blank"] == [",", "<s>"]


def test_symbols_that_the_teacher_never_emits_have_no_probability():
    symbols = map_symbols(vocabulary("▁AB"), vocabulary("▁ABÉ"), ignore=("É",))
    assert symbols.never_emitted == ("É",)
    assert symbols.apply(random_log_probs(1, 4))[..., 4].eq(-torch.inf).all()


def test_two_letters_become_one_only_where_the_recipe_maps_them():
    teacher, student = vocabulary("▁AE"), vocabulary("▁A")
    symbols = map_symbols(teacher, student, {"E": "A"})
    assert not symbols.exact
    log_probs = random_log_probs(2, 4)
    torch.testing.assert_close(symbols.apply(log_probs)[..., 2], log_probs[..., 2:].logsumexp(-1))
    with pytest.raises(VocabularyError, match="no counterpart of the teacher's 'a'"):
        map_symbols(vocabulary("▁Aa"), student)


@pytest.mark.parametrize(("symbol", "other"), [("ı", "I"), ("ς", "Σ"), ("ß", "S")])
def test_letters_whose_case_does_not_come_back_need_a_word(symbol, other):
    with pytest.raises(VocabularyError, match=f"no counterpart of the teacher's '{symbol}'"):
        map_symbols(vocabulary("▁" + symbol), vocabulary("▁" + other))
    assert map_symbols(vocabulary("▁" + symbol), vocabulary("▁" + other), {symbol: other}).exact


def test_two_separators_do_not_become_one_by_themselves():
    with pytest.raises(VocabularyError, match=r"'\|'"):
        map_symbols(vocabulary("▁|A"), vocabulary("▁A"))
    assert map_symbols(Vocabulary(("<blk>", "|", "<space>", "A")), vocabulary("▁A")).unmapped == ("<space>",)


@given(teacher=st.permutations(["<blk>", "|", *"abc", "<s>", "<unk>", "#"]), seed=st.integers(0, 1000))
def test_probability_is_conserved(teacher, seed):
    symbols = map_symbols(Vocabulary(tuple(teacher)), vocabulary("▁ABCÉ"), ignore=("#", "É"))
    mapped = symbols.apply(random_log_probs(seed, len(teacher)))
    torch.testing.assert_close(mapped.exp().sum(-1), torch.ones(2, 6))


# -- refusals --------------------------------------------------------------------------------------------


def test_letters_that_one_side_lacks_are_named_with_what_to_do():
    with pytest.raises(VocabularyError) as caught:
        map_symbols(vocabulary("▁abñ"), vocabulary("▁ABÉ"))
    message = str(caught.value)
    assert "the student has no counterpart of the teacher's 'ñ'" in message
    assert "the teacher never emits the student's 'É'" in message
    assert "bridge.symbols" in message
    assert "bridge.ignore" in message


@pytest.mark.parametrize(
    ("teacher", "student"),
    [(WAV2VEC2, BPE), (BPE, STUDENT), (BPE, Vocabulary(("<blk>", "▁THE", "▁OF", "S", "▁")))],
)
def test_subwords_go_through_the_n_best(teacher, student):
    with pytest.raises(VocabularyError, match=r"n-best transcripts instead.* distill\.level: sequence"):
        map_symbols(teacher, student)


def test_the_same_subwords_in_another_order_are_fine():
    shuffled = Vocabulary(tuple(reversed(BPE.symbols)))
    assert map_symbols(BPE, shuffled).exact


@pytest.mark.parametrize(
    ("symbols", "ignore", "message"),
    [
        ({"Z": "A"}, (), "'Z': not in the vocabulary"),
        ({"a": "Z"}, (), "'Z': not in the vocabulary"),
        ({}, ("Z",), "'Z': not in the vocabulary"),
        ({"<blk>": "A"}, (), "name <blk>"),
        ({}, ("<blk>",), "name <blk>"),
    ],
)
def test_tables_that_name_what_is_not_there_are_refused(symbols, ignore, message):
    with pytest.raises(VocabularyError, match=message):
        map_symbols(vocabulary("▁a"), vocabulary("▁A"), symbols, ignore)


def test_tables_for_other_teachers_do_not_touch_one_that_fits():
    assert map_symbols(STUDENT, STUDENT, {"ñ": "N", "A": "B"}, ("!",)).identical
