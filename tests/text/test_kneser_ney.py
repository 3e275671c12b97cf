"""N-gram estimation against KenLM's own `lmplz`, and what every back-off model must fulfil."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import LanguageModelError
from asr_kd.text.kneser_ney import FALLBACK, NgramModel, estimate

TOY = ["A B A", "A B C", "B A", "A A B", "C A B", "A B A B", "B C", "A C"]

LMPLZ = """
-1.0377885	<unk>	0
-0.6642079	</s>	0
-0.5228787	A	-0.36797678
-0.75696194	B	-0.30103
-0.6642079	C	-0.30103
-0.78440017	A </s>	0
-0.6812412	B </s>	0
-0.35490537	C </s>	0
-0.2596373	<s> A	-0.07058106
-0.69896996	A A	-0.20412
-0.45593193	B A	-0.33881855
-0.49939764	C A	-0.20412
-0.71982014	<s> B	-0.20412
-0.36437267	A B	-0.13717318
-0.84239215	<s> C	-0.20412
-0.78440017	A C	-0.20412
-0.51097953	B C	-0.42596874
-0.30806643	B A </s>
-0.8184144	A B </s>
-0.18639125	A C </s>
-0.10202947	B C </s>
-0.6108339	<s> A A
-0.39120662	<s> B A
-0.3339112	A B A
-0.24190858	<s> C A
-0.43495375	<s> A B
-0.19038019	A A B
-0.49070948	B A B
-0.19038019	C A B
-0.6682835	<s> A C
-0.41997838	<s> B C
-0.5416245	A B C
"""
"""`lmplz -o 3 --discount_fallback` of KenLM 0.3.0's source on TOY."""

LMPLZ_PRUNED = """
-1.0377885	<unk>	0
-0.6642079	</s>	0
-0.5228787	A	-0.23657197
-0.75696194	B	-0.07058106
-0.6642079	C	0
-0.6096537	A </s>
-0.73478895	B </s>
-0.6642079	C </s>
-0.36653155	<s> A
-0.5934598	B A
-0.5934598	<s> B
-0.39631444	A B
-0.47603685	B C
"""
"""The same with `-o 2 --prune 0 1`."""


def entries(lines) -> dict[str, tuple[float, float]]:
    """n-gram → log10 probability and back-off weight, from ARPA's lines."""
    rows = [line.rstrip("\n").split("\t") for line in lines]
    return {row[1]: (float(row[0]), float(row[2]) if len(row) > 2 else 0.0) for row in rows if len(row) > 1}


def log10_prob(table: dict[str, tuple[float, float]], context: tuple[str, ...], word: str) -> float:
    """What ARPA defines: the longest n-gram that is there, and the back-off weights of those that are not."""
    if " ".join((*context, word)) in table:
        return table[" ".join((*context, word))][0]
    weight = table.get(" ".join(context), (0.0, 0.0))[1]
    return weight + log10_prob(table, context[1:], word)


@pytest.mark.parametrize(("order", "prune", "reference"), [(3, (), LMPLZ), (2, (0, 1), LMPLZ_PRUNED)])
def test_it_is_what_lmplz_estimates(order, prune, reference):
    ours, theirs = entries(estimate(TOY, order, prune).arpa_lines()), entries(reference.splitlines())
    assert ours.keys() - {"<s>"} == theirs.keys()
    assert len(theirs) > 10
    for ngram, numbers in theirs.items():
        assert ours[ngram] == pytest.approx(numbers, abs=2e-6), ngram


def test_discounts_are_estimated_where_they_can_be():
    model = estimate(TOY, 3)
    assert model.fallbacks == (1, 2)
    assert model.discounts == (FALLBACK, FALLBACK, pytest.approx((0.625, 0.75, 3.0)))


def test_the_header_counts_what_follows():
    text = "".join(estimate(TOY, 3).arpa_lines())
    assert text.startswith("\\data\\\nngram 1=6\nngram 2=12\nngram 3=15\n\n\\1-grams:\n")
    assert text.endswith("\n\n\\end\\\n")
    for order, count in ((1, 6), (2, 12), (3, 15)):
        section = text.split(f"\\{order}-grams:\n")[1].split("\n\n")[0]
        assert len(section.splitlines()) == count


sentences = st.lists(st.lists(st.sampled_from("ABCD"), max_size=6).map(" ".join), min_size=1, max_size=12)


@given(text=sentences, order=st.integers(2, 4), prune=st.sampled_from([(), (0, 1), (0, 0, 1), (0, 1, 2)]))
def test_every_context_shares_out_the_whole_mass(text, order, prune):
    if not any(line.split() for line in text):
        with pytest.raises(LanguageModelError, match="no word"):
            estimate(text, order)
        return
    model = estimate(text, order, prune[:order])
    table = entries(model.arpa_lines())
    words = [word for word in model.words if word != "<s>"]
    contexts = [()] + [
        context for n in range(1, order) for context in itertools.product([*words, "<s>"], repeat=n) if n < 3
    ]
    for context in contexts:
        total = sum(10 ** log10_prob(table, context, word) for word in words)
        assert total == pytest.approx(1.0, abs=1e-5), context


def test_pruning_leaves_out_what_is_rare_and_never_a_word():
    whole, pruned = (estimate([*TOY, "D"], 3, prune) for prune in ((), (0, 0, 1)))
    assert set(pruned.words) == set(whole.words)
    assert [len(table) for table in pruned.ngrams[:2]] == [len(table) for table in whole.ngrams[:2]]
    assert 0 < len(pruned.ngrams[2]) < len(whole.ngrams[2])


def test_order_of_sentences_and_empty_lines_change_nothing():
    first, second = (entries(estimate(text, 3).arpa_lines()) for text in (TOY, ["", *reversed(TOY), "  "]))
    assert first.keys() == second.keys()
    assert all(first[key] == pytest.approx(second[key], abs=1e-6) for key in first)


def test_more_text_of_a_word_makes_it_likelier():
    def probability(model: NgramModel) -> float:
        return 10 ** log10_prob(entries(model.arpa_lines()), ("A",), "B")

    assert probability(estimate([*TOY, "A B", "A B"], 2)) > probability(estimate(TOY, 2))


@pytest.mark.parametrize(
    ("text", "order", "prune", "message"),
    [
        (["A <s> B"], 3, (), "<s>"),
        ([], 3, (), "no word"),
        (["A"], 1, (), "order 1"),
        (["A"], 7, (), "order 7"),
        (["A"], 3, (0, 2, 1), "prune"),
        (["A"], 3, (1,), "prune"),
        (["A"], 2, (0, 0, 1), "prune"),
    ],
)
def test_what_cannot_be_is_said(text, order, prune, message):
    with pytest.raises(LanguageModelError, match=message):
        estimate(text, order, prune)


def test_numbers_are_probabilities():
    model = estimate(["A B C D E F G"] * 3 + ["B D"], 4)
    assert all(np.isfinite(values).all() and (values <= 0).all() for values in model.log_probs)
    assert math.isclose(model.log_probs[0][1], -99.0)


def test_a_discount_of_exactly_0_gives_weights_that_kenlm_reads():
    # The counts of counts of its pairs make D3+ 0, and a word whose pairs all came so often leaves nothing for others.
    text = ["A", "E A A E A", "D A E A", "D E C", "E A", "E E D A", "E A E E A", "B A E B A", "B A A"]
    model = estimate(text, order=2)
    backoffs = np.concatenate(model.backoffs)
    assert model.discounts[1][2] == 0.0
    assert np.isfinite(backoffs).all()
    assert backoffs.min() == -99.0
