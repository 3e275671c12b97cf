"""Files of transcripts: what is read is what was written, and what is not a transcript is named with its line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.errors import EvaluationError
from asr_kd.scoring.formats import TimedWord, ctm_lines
from asr_kd.scoring.transcripts import hypotheses_for, read_speakers, read_transcripts, text_form_of, write_transcripts

WORD = st.text(alphabet="abcäß'ﬁ字.-_|()/", min_size=1, max_size=5)
IDS = st.text(alphabet="abc012-_.", min_size=1, max_size=6)
TEXTS = st.dictionaries(IDS, st.lists(WORD, max_size=5).map(" ".join), min_size=1, max_size=4)


@settings(deadline=None)  # no test asserts a time
@given(texts=TEXTS, form=st.sampled_from(["trn", "kaldi", "jsonl"]))
def test_what_is_written_is_read(texts, form, tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / f"h.{form}"
    write_transcripts(path, form, texts)
    assert read_transcripts(path, "hypothesis", form).texts == texts


def test_words_with_times_go_through_ctm_and_json_lines(tmp_path):
    words = {"a": (TimedWord("one", 0.5, 0.25, 0.75), TimedWord("two", 1.0, 0.5, None))}
    for name in ("h.ctm", "h.jsonl"):
        write_transcripts(tmp_path / name, text_form_of(tmp_path / name), {"a": "one two", "b": ""}, words)
        found = read_transcripts(tmp_path / name, "hypothesis")
        assert found.words == words
        assert found.texts["a"] == "one two"
    assert (tmp_path / "h.ctm").read_text() == "a 1 0.500 0.250 one 0.7500\na 1 1.000 0.500 two\n"
    rows = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text().splitlines()]
    assert rows[1] == {"id": "b", "text": ""}


def test_words_are_read_under_the_names_that_are_in_use(tmp_path):
    words = [
        {"word": "one", "start": 0, "duration": 0.5},
        {"word": "two", "start": 1, "end": 1.5, "confidence": 1},
        {"text": "three", "start_seconds": 2.0, "end_seconds": 2.5},
    ]
    (tmp_path / "h.jsonl").write_text(json.dumps({"id": "a", "text": "one two three", "words": words}) + "\n")
    found = read_transcripts(tmp_path / "h.jsonl", "hypothesis").words["a"]
    assert found == (TimedWord("one", 0, 0.5), TimedWord("two", 1, 0.5, 1), TimedWord("three", 2.0, 0.5))


def test_ctm_words_are_put_in_the_order_of_their_times(tmp_path):
    (tmp_path / "h.ctm").write_text(
        ";; a comment\nb 1 0.0 0.1 only\na A 1.0 0.2 two 0.5\na A 0.1 0.2 one NA lex extra\n"
    )
    found = read_transcripts(tmp_path / "h.ctm", "hypothesis")
    assert found.texts == {"b": "only", "a": "one two"}
    assert found.words["a"][0] == TimedWord("one", 0.1, 0.2, None)


def test_a_silent_utterance_may_be_missing_from_ctm_alone(tmp_path):
    (tmp_path / "h.ctm").write_text("a 1 0.0 0.1 one\n")
    (tmp_path / "h.trn").write_text("one (a)\n")
    assert hypotheses_for(read_transcripts(tmp_path / "h.ctm", "hypothesis"), ["a", "b"]) == (
        {"a": "one", "b": ""},
        ["b"],
    )
    with pytest.raises(EvaluationError, match=r"h\.trn: 1 of 2 utterances are not in it \(b\)"):
        hypotheses_for(read_transcripts(tmp_path / "h.trn", "hypothesis"), ["a", "b"])
    with pytest.raises(EvaluationError, match=r"h\.ctm: 2 of 2 utterances are not in it \(x, y\)"):
        hypotheses_for(read_transcripts(tmp_path / "h.ctm", "hypothesis"), ["x", "y"])


@pytest.mark.parametrize(
    ("row", "reference", "hypothesis"),
    [
        ({"id": "u", "text": "a"}, "a", "a"),
        ({"audio_filepath": "clips/u.wav", "text": "a", "pred_text": "b"}, "a", "b"),
        ({"id": "u", "reference": "A", "hypothesis": "B"}, "A", "B"),
        ({"id": "u", "reference": "A", "hypothesis": "B", "raw_reference": "a.", "raw_hypothesis": "b."}, "a.", "b."),
        ({"id": "u", "nbest": [{"text": "b", "score": -1.0}, {"text": "c"}], "text": "a"}, "a", "b"),
    ],
)
def test_a_row_holds_the_text_of_each_side(row, reference, hypothesis, tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n\n")
    assert read_transcripts(tmp_path / "x.jsonl", "reference").texts == {"u": reference}
    assert read_transcripts(tmp_path / "x.jsonl", "hypothesis").texts == {"u": hypothesis}


def test_a_manifest_has_speakers_and_durations(tmp_path):
    row = {"id": "u", "audio": "u.wav", "duration": 1.5, "text": "a", "speaker": "ann"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row) + "\n")
    found = read_transcripts(tmp_path / "m.jsonl", "reference")
    assert (found.speakers, found.seconds) == ({"u": "ann"}, {"u": 1.5})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.trn", "no id\n", r"a\.trn:1: no id in parentheses"),
        ("a.trn", "x { one / won } (a)\n", r"a\.trn:1: alternatives in braces"),
        ("a.trn", "x (a)\n\ny (a)\n", r"'a' stands in .*a\.trn:1 and .*a\.trn:3"),
        ("a.ctm", "a 1 0 0.1\n", r"a\.ctm:1: not name, channel, start"),
        ("a.ctm", "a 1 zero 0.1 w\n", "not name, channel, start"),
        ("a.ctm", "a 1 nan 0.1 w\n", "not name, channel, start"),
        ("a.ctm", "a 1 0 0.1 <ALT_BEGIN>\n", "not name, channel, start"),
        ("a.ctm", "a 1 0 0.1 w\na 2 0 0.1 w\n", "is on channel 2, and in .* on 1"),
        ("a.jsonl", "{\n", "not JSON"),
        ("a.jsonl", "[]\n", "list instead of a mapping"),
        ("a.jsonl", '{"text": "a"}\n', "neither id nor audio_filepath"),
        ("a.jsonl", '{"id": 3, "text": "a"}\n', "neither id nor audio_filepath"),
        ("a.jsonl", '{"id": "u"}\n', "no text under raw_hypothesis or hypothesis"),
        ("a.jsonl", '{"id": "u", "text": "a", "words": [{"word": "a"}]}\n', "words are not a list of word, start"),
        ("a.jsonl", '{"id": "u", "text": "a", "words": [{"word": "a", "start": NaN, "end": 1}]}\n', "words are not"),
        ("a.jsonl", "", "holds no transcript"),
        ("a.trn", ";; only a comment\n", "holds no transcript"),
        ("a.doc", "x (a)\n", "the form of these transcripts does not follow"),
        ("a.csv", "ID,wrd\n", "manifest convert IN OUT.jsonl --to asr-kd"),
    ],
)
def test_what_is_no_transcript_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_transcripts(tmp_path / name, "hypothesis")


def test_no_file_and_no_text_are_one_message(tmp_path):
    with pytest.raises(EvaluationError, match=r"none\.trn: cannot be read"):
        read_transcripts(tmp_path / "none.trn", "reference")
    with pytest.raises(EvaluationError, match="none: does not exist; expected a file of transcripts"):
        read_transcripts(tmp_path / "none", "reference")
    (tmp_path / "latin.trn").write_bytes("caf\xe9 (a)\n".encode("latin-1"))
    with pytest.raises(EvaluationError, match=r"latin\.trn: cannot be read .*; expected text in UTF-8"):
        read_transcripts(tmp_path / "latin.trn", "reference")


@pytest.mark.parametrize(
    ("form", "name", "text"),
    [
        ("trn", "a b", "x"),
        ("trn", "a(b)", "x"),
        ("trn", "a", "one { two"),
        ("trn", "a", ";; x"),
        ("trn", "a", "one\ntwo"),
        ("kaldi", "", "x"),
        ("ctm", "a", "untimed"),
    ],
)
def test_what_a_form_cannot_hold_is_refused(form, name, text, tmp_path):
    with pytest.raises(EvaluationError, match=r"cannot be written|have no times"):
        write_transcripts(tmp_path / "out", form, {name: text})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("word", ["a\n", " a", "a b", ""])
def test_a_ctm_word_is_one_word(word):
    with pytest.raises(EvaluationError, match="cannot be written"):
        ctm_lines("u", [TimedWord(word, 0.0, 1.0, None)])


@pytest.mark.parametrize("words", ["", 0, {}, False, [0]])
def test_words_that_are_no_list_are_refused(words, tmp_path):
    (tmp_path / "hyp.jsonl").write_text(json.dumps({"id": "u", "text": "a", "words": words}))
    with pytest.raises(EvaluationError, match="words are not a list"):
        read_transcripts(tmp_path / "hyp.jsonl", side="hypothesis")


def test_utt2spk(tmp_path):
    (tmp_path / "utt2spk").write_text("a-1 a\nb-1 b\n")
    assert read_speakers(tmp_path / "utt2spk") == {"a-1": "a", "b-1": "b"}
    (tmp_path / "utt2spk").write_text("a-1 a\nb-1\n")
    with pytest.raises(EvaluationError, match="utt2spk:2: is not an id and a speaker"):
        read_speakers(tmp_path / "utt2spk")
