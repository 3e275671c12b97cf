"""Transcripts that cannot be trained on obey `max_excluded_share` as damaged audio does."""

from pathlib import Path

import pytest
import yaml

from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.corpora.utterance_checks import untrainable
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.noise import write_corpus
from tests.helpers.tiny_run import command, one_line

MODEL = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "kernel": 3, "subsampling_channels": 2}


def recipe(folder: Path, corpus: dict, **further) -> Path:
    """A recipe with one student that needs transcripts."""
    students = {"student": {"model": {**MODEL, "streaming": {"chunk_frames": 4, "left_context_frames": 8}}}}
    plain = {"name": "own", "work_dir": str(folder / "run"), "corpus": corpus, "students": students, **further}
    (folder / "own.yaml").write_text(yaml.safe_dump(plain))
    return folder / "own.yaml"


def own(folder: Path, texts: dict[int, str]) -> dict:
    """A manifest of noise whose transcripts are "a", but for some rows."""
    found = [
        Utterance(u.id, u.audio, u.duration, texts.get(row, "a"), "s")
        for row, u in enumerate(write_corpus(folder / "audio", 9))
    ]
    write_manifest(folder / "train.jsonl", found)
    dev = Utterance("dev", found[-1].audio, found[-1].duration, "a", "s")
    write_manifest(folder / "dev.jsonl", [dev])
    return {"kind": "manifest", "train": [str(folder / "train.jsonl")], "dev": [str(folder / "dev.jsonl")]}


@pytest.mark.parametrize(
    ("text", "kind"),
    [("ä", "characters outside the vocabulary"), ("...", "empty transcript"), ("a " * 90, "too long for CTC")],
)
def test_transcripts_beyond_the_share_stop_prepare(tmp_path, text, kind):
    path = recipe(tmp_path, own(tmp_path, {3: text, 5: text}), vocabulary={"alphabet": "A"})
    message = one_line(command("prepare", str(path)))
    assert "2 of 9 utterances cannot be used" in message
    assert kind in message
    assert "max_excluded_share" in message
    outcome = command("prepare", str(path), "corpus.max_excluded_share=0.25")
    assert outcome.code == 0, outcome.err
    assert "2 transcripts cannot be trained on" in outcome.out


def test_models_that_need_no_transcripts_are_not_stopped_by_them(tmp_path):
    corpus = own(tmp_path, {3: "ä", 5: "ä"})
    path = recipe(tmp_path, corpus, vocabulary={"alphabet": "A"}, teachers={"t": {"source": "local:none"}})
    free = "students.student.distill={kd_weight: 1.0}"
    assert command("prepare", str(path), free).code == 0


def test_an_utterance_counts_once_and_one_without_transcript_not_at_all(tmp_path):
    utterances = [
        Utterance("a", tmp_path, 0.1, "ä a a a a a a", "s"),
        Utterance("b", tmp_path, 1.0, None, "s"),
        Utterance("c", tmp_path, 1.0, "A", "s"),
    ]
    found = untrainable(utterances, Vocabulary.characters(["A"]), "librispeech")
    assert [item.id for item in found] == ["a"]
