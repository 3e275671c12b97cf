"""Text for language models from files of several kinds."""

import gzip

import pytest

from asr_kd.decoding.graph import read_arpa
from asr_kd.decoding.lexicon import read_words
from asr_kd.errors import LanguageModelError
from asr_kd.text.kneser_ney import read_sentences


def test_each_kind_of_file_gives_its_sentences(tmp_path):
    (tmp_path / "plain.txt").write_text("hello there\n\nWell, yes\n")
    with gzip.open(tmp_path / "packed.txt.gz", "wt") as file:
        file.write("packed words\n")
    with gzip.open(tmp_path / "train.text.gz", "wt") as file:
        file.write("utt-1 BY ITS ID\nutt-2\n")
    (tmp_path / "text").write_text("utt-1\tBY ITS ID\n")
    (tmp_path / "train.jsonl").write_text('{"id": "1", "text": "a manifest"}\n{"id": "2", "text": null}\n')
    chapter = tmp_path / "split" / "19" / "198"
    chapter.mkdir(parents=True)
    (chapter / "19-198.trans.txt").write_text("19-198-0000 NORTHANGER ABBEY\n19-198-0001 CHAPTER ONE\n")
    assert list(read_sentences(tmp_path / "plain.txt")) == ["HELLO THERE", "WELL YES"]
    assert next(read_sentences(tmp_path / "plain.txt", "none")) == "hello there\n"
    assert list(read_sentences(tmp_path / "packed.txt.gz")) == ["PACKED WORDS"]
    assert list(read_sentences(tmp_path / "train.text.gz")) == ["BY ITS ID"]
    assert list(read_sentences(tmp_path / "text")) == ["BY ITS ID"]
    assert list(read_sentences(tmp_path / "train.jsonl")) == ["A MANIFEST"]
    assert list(read_sentences(tmp_path / "split")) == ["NORTHANGER ABBEY", "CHAPTER ONE"]


def test_what_is_no_text_is_said(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"id": "1", "text": "fine"}\n{"id": "2"}\n')
    (tmp_path / "bad.gz").write_bytes(b"not packed")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    for name in ("missing.txt", "bad.gz", "bytes.txt"):
        with pytest.raises(LanguageModelError, match=name):
            list(read_sentences(tmp_path / name))
    with pytest.raises(LanguageModelError, match=r"bad\.jsonl:2"):
        list(read_sentences(tmp_path / "bad.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LanguageModelError, match="trans"):
        list(read_sentences(tmp_path / "empty"))


def test_a_packed_file_with_flipped_bits_is_named(tmp_path):
    content = bytearray(gzip.compress("".join(f"sentence {number}\n" for number in range(2000)).encode()))
    content[400:403] = bytes(byte ^ 0xFF for byte in content[400:403])
    (tmp_path / "damaged.txt.gz").write_bytes(content)
    with pytest.raises(LanguageModelError, match=r"damaged\.txt\.gz: cannot be read"):
        list(read_sentences(tmp_path / "damaged.txt.gz"))
    for read in (read_words, read_arpa):
        with pytest.raises(LanguageModelError, match=r"damaged\.txt\.gz: cannot be read"):
            read(tmp_path / "damaged.txt.gz")


@pytest.mark.parametrize("text", ['["A", "B"]', "5", "true"])
def test_a_text_that_is_no_string_is_named(tmp_path, text):
    path = tmp_path / "train.jsonl"
    path.write_text(f'{{"text": {text}}}\n')
    with pytest.raises(LanguageModelError, match=r"train\.jsonl:1"):
        list(read_sentences(path))
