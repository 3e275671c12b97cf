"""The grammar: what it holds, and what is refused in it."""

import random

import pytest

from asr_kd.corpora.grammar import grammar_text, parse_grammar
from asr_kd.errors import CorpusError

SMALL = """
# two lines of one name join
<sentence> = go <where> | stop
<sentence> = <where> again
<where> = left | right
"""


def test_a_small_grammar_holds_exactly_its_sentences():
    grammar = parse_grammar(SMALL)
    assert grammar.words == {"go", "stop", "again", "left", "right"}
    generator = random.Random(0)
    drawn = {grammar.sentence(generator) for _ in range(200)}
    assert drawn == {"go left", "go right", "stop", "left again", "right again"}


def test_distinct_sentences_avoid_what_is_taken():
    grammar = parse_grammar(SMALL)
    taken = {"stop"}
    assert len(set(grammar.distinct_sentences(4, random.Random(0), taken))) == 4
    assert len(taken) == 5
    with pytest.raises(CorpusError, match="0 new sentences"):
        grammar.distinct_sentences(1, random.Random(0), taken)


def test_our_own_grammar_is_large_enough_and_plain():
    grammar = parse_grammar(grammar_text())
    assert 150 <= len(grammar.words) <= 300
    assert all(word.isascii() and word.islower() for word in grammar.words)
    sentences = grammar.distinct_sentences(3000, random.Random(0), set())
    assert {word for sentence in sentences for word in sentence.split()} == grammar.words
    assert all(3 <= len(sentence.split()) <= 12 for sentence in sentences)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<a> = b", "<sentence> is not defined"),
        ("<sentence> = go <where>", "<where> is not defined"),
        ("<sentence> = go <sentence>", "leads back to itself"),
        ("<sentence> = <a>\n<a> = <b>\n<b> = <a>", "leads back to itself"),
        ("<sentence> = a | | b", "grammar.txt:1"),
        ("<sentence> = room 7", "grammar.txt:1"),
        ("sentence = a", "grammar.txt:1"),
        ("<sentence> a", "grammar.txt:1"),
        ("<sentence> =", "grammar.txt:1"),
    ],
)
def test_a_wrong_grammar_is_refused(text, message):
    with pytest.raises(CorpusError, match=message):
        parse_grammar(text)


def test_topics_restrict_the_sentences():
    grammar = parse_grammar("<sentence> = <a> | <b> | <a>\n<a> = one | two\n<b> = three\n")
    assert grammar.topics == ["a", "b"]
    assert {grammar.about(["b"]).sentence(random.Random(seed)) for seed in range(9)} == {"three"}
    assert grammar.about([]) == grammar
    with pytest.raises(CorpusError, match=r"'c'.*a, b"):
        grammar.about(["c"])
