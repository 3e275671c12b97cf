"""A corpus that grew is prepared again; models whose training data stayed the same are not trained again."""

import json

import pytest

from asr_kd.corpora.fingerprint import fingerprint
from asr_kd.corpora.settings import An4Settings, LibriSpeechSettings, SyntheticSettings
from tests.helpers.corpus_layouts import write_an4_lists, write_audio, write_chapter
from tests.helpers.tiny_run import RECIPE, command, hashes


def an4_part(folder, part: str, speakers: list[str]) -> None:
    """One of AN4's official parts, three utterances a speaker."""
    group = "an4_clstk" if part == "train" else "an4test_clstk"
    names = [(f"{group}/{who}/an{number}-{who}-b", f"an{number}-{who}-b") for who in speakers for number in range(3)]
    for fileid, _ in names:
        write_audio(folder / "wav" / f"{fileid}.wav", 0.8)
    write_an4_lists(
        folder, part, [fileid for fileid, _ in names], [f"<s> ENTER FOUR </s> ({name})" for _, name in names]
    )


@pytest.fixture
def an4(tmp_path):
    folder = tmp_path / "an4"
    folder.mkdir()
    an4_part(folder, "train", [f"m{letter}b" for letter in "abcdefghijklmnopqrstuvwx"])
    return folder


@pytest.mark.slow
def test_test_files_that_are_unpacked_later_become_a_set_and_train_nothing_again(an4, tmp_path):
    run = ("run", str(RECIPE), f"work_dir={tmp_path / 'run'}", f"corpus={{kind: an4, root: {an4}}}", "--to", "evaluate")
    outcome = command(*run)
    assert outcome.code == 0, outcome.err
    assert "test: not present, skipped" in outcome.out
    trained = {name: digest for name, digest in hashes(tmp_path / "run").items() if name.startswith(("teach", "stud"))}
    assert {line.rpartition(": ")[2] for line in command(*run).did} == {"skipped"}

    an4_part(an4, "test", ["fzz", "myy"])
    outcome = command(*run)
    assert outcome.code == 0, outcome.err
    assert outcome.did == [
        "prepare: starts",
        "teacher: skipped",
        "extract teacher: skipped",
        "student student-hard: skipped",
        "student student-kd: skipped",
        "evaluate: starts",
    ]
    assert "[prepare] its inputs changed" in outcome.out
    found = json.loads((tmp_path / "run" / "report" / "results.json").read_text())["test_sets"]
    assert set(found) == {"dev", "devtest", "test"}
    assert found["test"]["utterances"] == 6
    after = hashes(tmp_path / "run")
    assert {name: after[name] for name in trained} == trained


def test_an4_that_grew_or_lost_a_list_differs(an4):
    settings = An4Settings(root=an4)
    first = fingerprint(settings)
    assert fingerprint(An4Settings(root=an4.parent)) == first
    (an4 / "wav" / ".DS_Store").write_text("")
    (an4 / "README").write_text("nothing that prepare reads")
    assert fingerprint(settings) == first
    (an4 / "etc" / "an4_test.fileids").write_text("an4test_clstk/fzz/an1-fzz-b\n")
    second = fingerprint(settings)
    (an4 / "wav" / "an4test_clstk").mkdir()
    third = fingerprint(settings)
    assert len({json.dumps(item) for item in (first, second, third)}) == 3


def test_librispeech_looks_at_the_splits_of_the_recipe_only(tmp_path):
    folder = tmp_path / "LibriSpeech"
    for split in ("train-clean-100", "dev-clean"):
        write_chapter(folder / split, "19", [".flac"])
    settings = LibriSpeechSettings(root=folder)
    first = fingerprint(settings)
    write_chapter(folder / "train-other-500", "20", [".flac"])
    assert fingerprint(settings) == first
    write_chapter(folder / "train-clean-100", "21", [".flac"])
    second = fingerprint(settings)
    write_chapter(folder / "test-clean", "22", [".flac"])
    third = fingerprint(settings)
    assert len({json.dumps(item) for item in (first, second, third)}) == 3


def test_synthetic_speech_is_told_by_its_settings():
    assert fingerprint(SyntheticSettings()) == fingerprint(SyntheticSettings())
    assert fingerprint(SyntheticSettings()) != fingerprint(SyntheticSettings(seed=1))
