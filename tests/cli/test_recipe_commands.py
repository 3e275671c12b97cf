"""recipe ls, recipe cp, running a recipe by name, and init."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asr_kd.cli import app
from asr_kd.corpora.manifest import read_manifest
from asr_kd.errors import CorpusError, RecipeError, TargetsError
from asr_kd.files import json_lines
from asr_kd.progress import SILENT, ConsoleProgress
from asr_kd.recipe.new_recipe import write_recipe
from asr_kd.recipe.packaged_recipes import copy_recipe, find_recipe, is_recipe, packaged_recipes
from asr_kd.recipe.preparation import check_target
from asr_kd.recipe.pseudo_labels import open_target
from asr_kd.recipe.settings import load_recipe

TEXTS = ("ENTER FOUR", "YES", "GO", "RUBOUT S N", "STOP", "NO", "START", "HELP", "REPEAT", "ERASE")


def test_the_list_names_every_recipe_with_a_line_each() -> None:
    shown = CliRunner().invoke(app, ["recipe", "ls"])
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert [line.split()[0] for line in lines] == [recipe.name for recipe in packaged_recipes()]
    assert "Synthetic/synthetic" in shown.output


@pytest.mark.parametrize("recipe", packaged_recipes(), ids=lambda recipe: recipe.name)
def test_every_packaged_recipe_loads_by_its_name(recipe) -> None:  # type: ignore[no-untyped-def]
    assert load_recipe(Path(recipe.name), []).name
    assert recipe.summary


def test_a_unique_name_without_its_folder_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(Path("synthetic")) == find_recipe(Path("Synthetic/synthetic.yaml"))
    with pytest.raises(RecipeError, match=r"2 recipes: AN4/warm, LibriSpeech/warm"):
        find_recipe(Path("warm"))
    with pytest.raises(RecipeError, match="Did you mean synthetic"):
        find_recipe(Path("syntetic"))


def test_a_file_of_the_user_comes_before_a_recipe_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("synthetic").write_text("name: mine")
    assert find_recipe(Path("synthetic")) == Path("synthetic")


def test_a_copy_is_equal_and_replaces_nothing(tmp_path: Path) -> None:
    copied = copy_recipe("AN4/an4", tmp_path / "mine.yaml")
    assert copied.read_text() == find_recipe(Path("AN4/an4")).read_text()
    with pytest.raises(RecipeError, match="exists already"):
        copy_recipe("AN4/an4", copied)
    assert copy_recipe("AN4/an4", tmp_path) == tmp_path / "an4.yaml"
    with pytest.raises(RecipeError, match="not the name of a recipe"):
        copy_recipe("AN4/an4", tmp_path / "missing-folder" / "x.txt")


def _speech(folder: Path, speakers: int, texts: bool = True) -> None:
    for speaker in range(speakers):
        for number, text in enumerate(TEXTS):
            path = folder / f"s{speaker}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.random.default_rng(number).uniform(-0.1, 0.1, 24_000), 16_000)
            if texts:
                path.with_suffix(".txt").write_text(text + "\n")


def test_init_divides_transcribed_audio_by_speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 12)
    path = write_recipe(Path("speech"))
    recipe = load_recipe(path, [])
    assert list(recipe.students) == ["student-hard", "student-kd"]
    assert recipe.students["student-hard"].model.width == 96  # tiny: an hour at most
    sets = {name: read_manifest(tmp_path / "speech-manifests" / f"{name}.jsonl") for name in ("train", "dev", "test")}
    speakers = {name: {u.speaker for u in members} for name, members in sets.items()}
    assert not speakers["train"] & speakers["dev"]
    assert not speakers["dev"] & speakers["test"]
    assert sum(map(len, sets.values())) == 120
    assert {u.text for u in sets["train"]} == set(TEXTS)
    assert check_target(path, [], True, SILENT).ok


def test_init_writes_the_characters_of_all_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter of one speaker alone is in dev or test and not in train."""
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 12)
    for path in Path("speech").rglob("*.txt"):
        path.write_text("é" + "abcdefghijkl"[int(path.parent.name[1:])])
    divided = write_recipe(Path("speech"))
    named = write_recipe(Path("speech-manifests"), Path("named.yaml"))
    for path in (divided, named):
        assert load_recipe(path, []).vocabulary.alphabet == "ABCDEFGHIJKLMNOPQRSTUVWXYZ'É"
        assert check_target(path, [], False, SILENT).ok
    for path in Path("speech").rglob("*.txt"):
        path.write_text("д" * 3 + "абвгежзийклм"[int(path.parent.name[1:])])
    shutil.rmtree("speech-manifests")
    assert load_recipe(write_recipe(Path("speech"), Path("other.yaml")), []).vocabulary.alphabet == "абвгдежзийклм"


def test_check_of_a_folder_reads_the_transcripts_that_init_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 2)
    assert check_target(Path("speech"), [], False, SILENT).rows == []
    (tmp_path / "speech" / "s0" / "0.txt").write_text(" \n")
    (tmp_path / "speech" / "s1" / "1.txt").write_text("x" * 500)
    (tmp_path / "speech" / "s1" / "2.txt").unlink()
    found = check_target(Path("speech"), [], False, SILENT)
    assert found.counts == {"empty transcript": 1, "transcript too long for CTC": 1, "no transcript": 1}
    for split in ("train-clean-100", "dev-clean"):
        _chapter(tmp_path / "whole" / split, split[:1])
    found = check_target(Path("whole"), [], False, SILENT)
    assert found.utterances == 6  # those with transcripts
    assert found.ok


def test_init_counts_the_recordings_whose_transcript_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 3)
    (tmp_path / "speech" / "s0" / "0.txt").write_text("")
    (tmp_path / "speech" / "s1" / "0.txt").write_text("?!")  # nothing after the normalizer
    path = write_recipe(Path("speech"), progress=ConsoleProgress())
    printed = capsys.readouterr()
    assert "28 transcribed recordings" in printed.out + printed.err
    assert "2 without a transcript are left out" in printed.out + printed.err
    assert "# Note: 2 without a transcript are left out." in path.read_text()
    assert check_target(path, [], False, SILENT).ok


def test_init_writes_no_alphabet_beside_subwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("asr_kd.recipe.new_recipe.WORDS_FOR_SUBWORDS", 5)
    _speech(tmp_path / "speech", 3)
    vocabulary = load_recipe(write_recipe(Path("speech"), start="whisper"), []).vocabulary
    assert (vocabulary.kind, vocabulary.alphabet) == ("bpe", None)
    assert load_recipe(write_recipe(Path("speech"), Path("other.yaml")), []).vocabulary.alphabet


def _chapter(folder: Path, speaker: str) -> None:
    """A speaker's folder in LibriSpeech's layout; the last file has no transcript."""
    folder = folder / speaker / "1"
    folder.mkdir(parents=True)
    for number in range(4):
        noise = np.random.default_rng(number).uniform(-0.1, 0.1, 24_000)
        soundfile.write(folder / f"{speaker}-1-{number}.flac", noise, 16_000)
    (folder / f"{speaker}-1.trans.txt").write_text("".join(f"{speaker}-1-{n} {TEXTS[n].upper()}\n" for n in range(3)))


def test_init_reads_the_transcripts_of_a_part_of_librispeech(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for speaker in range(5):
        _chapter(tmp_path / "whole" / "train-clean-100", str(speaker))
    _chapter(tmp_path / "whole" / "test-clean", "9")
    for name, folder in (("splits", Path("whole")), ("split", Path("whole") / "train-clean-100")):
        progress = ConsoleProgress()
        recipe = load_recipe(write_recipe(folder, Path(f"{name}.yaml"), progress), [])
        assert recipe.corpus.kind == "manifest"
        read = [u for part in ("train", "dev", "test") for u in read_manifest(Path(f"{name}-manifests/{part}.jsonl"))]
        assert sorted(u.id for u in read) == sorted(f"{s}-1-{n}" for s in range(5) for n in range(3))
        assert {u.text for u in read} == {text.upper() for text in TEXTS[:3]}
        printed = capsys.readouterr()
        assert "5 files without transcript" in printed.out + printed.err
        assert ("test-clean left out" in printed.out + printed.err) == (name == "splits")


def test_init_of_one_speaker_divides_utterances_and_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 1)
    text = write_recipe(Path("speech")).read_text()
    assert "WER is optimistic" in text


def test_init_reads_a_manifest_and_named_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 12)
    write_recipe(Path("speech"))
    named = load_recipe(write_recipe(Path("speech-manifests"), Path("named.yaml")), [])
    assert named.corpus.train == [Path("speech-manifests/train.jsonl")]  # type: ignore[union-attr]
    assert not Path("named-manifests").exists()
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy("speech-manifests/train.jsonl", single / "all.jsonl")
    load_recipe(write_recipe(single), [])
    assert Path("single-manifests/dev.jsonl").is_file()
    shutil.copy(single / "all.jsonl", single / "more.jsonl")
    with pytest.raises(CorpusError, match="holds 2 manifests"):
        write_recipe(single, Path("two.yaml"))


def test_init_finds_manifests_by_the_names_that_other_tools_give_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 12)
    write_recipe(Path("speech"))
    nemo, pairs = tmp_path / "nemo", tmp_path / "pairs"
    nemo.mkdir()
    pairs.mkdir()
    for part in ("train", "dev", "test"):
        members = read_manifest(Path("speech-manifests") / f"{part}.jsonl")
        word = {"dev": "validation"}.get(part, part)
        (nemo / f"{word}_manifest.json").write_text(
            json_lines([{"audio_filepath": str(u.audio), "duration": 1.5, "text": u.text} for u in members])
        )
        sources = [{"type": "file", "channels": [0], "source": str(u.audio)} for u in members]
        recordings = [
            {"id": u.id, "sources": [source], "sampling_rate": 16_000, "num_samples": 24_000, "duration": 1.5}
            for u, source in zip(members, sources, strict=True)
        ]
        spans = [{"id": u.id, "recording_id": u.id, "start": 0.0, "duration": 1.5, "text": u.text} for u in members]
        (pairs / f"own_recordings_{part}.jsonl").write_text(json_lines(recordings))
        (pairs / f"own_supervisions_{part}.jsonl").write_text(json_lines(spans))
    for folder, dev in ((nemo, "validation_manifest.json"), (pairs, "own_recordings_dev.jsonl")):
        path = write_recipe(folder.relative_to(tmp_path))
        assert load_recipe(path, []).corpus.dev == [Path(folder.name, dev)]  # type: ignore[union-attr]
        assert check_target(path, [], False, SILENT).ok
    shutil.copy(nemo / "train_manifest.json", nemo / "train_more.json")
    with pytest.raises(CorpusError, match="holds 4 manifests"):
        write_recipe(nemo, Path("several.yaml"))


def test_init_of_stereo_calls_names_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("calls").mkdir()
    soundfile.write("calls/a.wav", np.full((24_000, 2), 0.1), 8_000)
    with pytest.raises(CorpusError, match=r"^calls: none of 1 files can be used, .* has 2 channels.*guides/calls\.md$"):
        write_recipe(Path("calls"))


def test_init_keeps_what_exists_and_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 3)
    Path("speech.yaml").write_text("mine")
    with pytest.raises(RecipeError, match="exists already"):
        write_recipe(Path("speech"))
    assert Path("speech.yaml").read_text() == "mine"
    with pytest.raises(CorpusError, match="no such folder"):
        write_recipe(Path("nowhere"))
    Path("empty").mkdir()
    with pytest.raises(CorpusError, match="holds no audio"):
        write_recipe(Path("empty"))
    assert not Path("empty.yaml").exists()
    Path("killed-manifests").mkdir()
    with pytest.raises(
        RecipeError, match=r"^killed-manifests: exists already, without killed\.yaml.*Delete the folder"
    ):
        write_recipe(tmp_path / "speech", Path("killed.yaml"))
    assert Path("killed-manifests").is_dir()


def test_init_leaves_nothing_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_whisper")
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 3, texts=False)
    for _ in range(2):  # the second time not "exists already"
        with pytest.raises(TargetsError, match="does not exist"):
            write_recipe(Path("speech"), whisper=str(tmp_path / "no-model"))
    assert [path.name for path in tmp_path.iterdir()] == ["speech"]


@pytest.mark.corpora
def test_init_knows_published_layouts(corpora_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(write_recipe(corpora_root / "an4"), []).corpus.kind == "an4"
    found = load_recipe(write_recipe(corpora_root / "LibriSpeech", Path("libri.yaml")), []).corpus
    assert found.kind == "librispeech"
    assert found.train == ["train-clean-100"]
    assert found.dev == ["dev-clean"]


@pytest.mark.corpora
@pytest.mark.slow
def test_init_of_audio_alone_transcribes_a_dev_set(
    corpora_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(os.environ.get("ASR_KD_MODELS", "")) / "whisper-tiny.en-ct2"
    if not model.is_dir():
        pytest.skip("needs Whisper's weights through ASR_KD_MODELS")
    monkeypatch.chdir(tmp_path)
    for number, path in enumerate(sorted((corpora_root / "LibriSpeech" / "dev-clean").rglob("*.flac"))[:6]):
        place = Path("calls") / f"s{number % 3}"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    recipe = write_recipe(Path("calls"), whisper=str(model))
    loaded = load_recipe(recipe, [])
    assert loaded.students["student"].hypotheses == "whisper"
    assert loaded.students["student"].model.init == "hf:openai/whisper-tiny.en"
    dev = read_manifest(tmp_path / "calls-manifests" / "dev.jsonl")
    assert dev
    assert all(re.fullmatch(r"[A-Z' ]+", u.text or "") for u in dev)
    assert all(u.text is None for u in read_manifest(tmp_path / "calls-manifests" / "train.jsonl"))


def test_a_folder_may_have_the_name_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("synthetic").mkdir()
    assert find_recipe(Path("synthetic")).name == "synthetic.yaml"
    with pytest.raises(RecipeError, match=r"cannot be written \(No such file or directory\)"):
        copy_recipe("AN4/an4", Path("missing", "mine.yaml"))


def test_init_names_a_transcript_that_is_not_utf_8_and_reads_one_of_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _speech(tmp_path / "speech", 3)
    for path in (tmp_path / "speech").rglob("*.txt"):
        path.write_text("GO", encoding="utf-8-sig")
    write_recipe(Path("speech"))
    assert {u.text for u in read_manifest(tmp_path / "speech-manifests" / "train.jsonl")} == {"GO"}
    (tmp_path / "speech" / "s0" / "0.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(CorpusError, match=r"s0/0.txt: cannot be read .* expected a transcript in UTF-8"):
        write_recipe(Path("speech"), Path("again.yaml"))


def test_names_of_recipes_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(is_recipe(Path(name)) for name in ("AN4/an4", "an4", "mine.yaml", "mine.yml"))
    Path("an4").mkdir()
    assert not any(is_recipe(Path(name)) for name in ("an4", "train.jsonl", "AN5/an4"))
    with pytest.raises(CorpusError, match="not prepared"):
        open_target(Path("AN4/an4"), None)
