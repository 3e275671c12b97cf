"""Manifests of other tools, folders and LibriSpeech itself, through the command line."""

import pytest
import soundfile

from asr_kd.corpora import librispeech
from asr_kd.corpora.manifest import Utterance, read_manifest, write_manifest
from tests.helpers.tiny_models import noise_speech
from tests.helpers.tiny_run import RECIPE, command, one_line


@pytest.fixture
def own(tmp_path):
    """A manifest of two files, one of them in two segments."""
    for name in ("one", "two"):
        soundfile.write(tmp_path / f"{name}.flac", noise_speech(2.0).numpy(), 16_000)
    rows = [
        Utterance("s-one", tmp_path / "one.flac", 2.0, "A B", "s"),
        Utterance("s-two-1", tmp_path / "two.flac", 1.0, "A", "s", whole=False),
        Utterance("s-two-2", tmp_path / "two.flac", 1.0, "B", "s", start=1.0),
    ]
    write_manifest(tmp_path / "own.jsonl", rows)
    return tmp_path, rows


@pytest.mark.parametrize(
    ("name", "target"),
    [("lhotse", "cuts.jsonl.gz"), ("nemo", "n.json"), ("speechbrain", "s.csv"), ("kaldi", "k"), ("asr-kd", "o.jsonl")],
)
def test_every_format_there_checked_and_back(own, name, target):
    folder, rows = own
    there = command("manifest", "convert", str(folder / "own.jsonl"), str(folder / target), "--to", name)
    assert (there.code, there.out) == (0, f"{folder / target}: 3 utterances\n"), there.err
    checked = command("check", str(folder / target))
    assert checked.code == 0, checked.out + checked.err
    assert "3 utterances" in checked.out
    back = command("manifest", "convert", str(folder / target), str(folder / "back.jsonl"), "--to", "asr-kd")
    assert back.code == 0, back.err
    found = read_manifest(folder / "back.jsonl")
    assert [(u.id, u.audio, u.start, u.duration, u.text, u.speaker) for u in found] == [
        (u.id, u.audio, u.start, u.duration, u.text, u.speaker) for u in rows
    ]


def test_what_is_left_out_is_refused_unless_allowed_and_then_listed(own):
    folder, _ = own
    (folder / "n.json").write_text(
        '{"audio_filepath": "one.flac", "duration": 2.0, "lang": "en"}\n'
        '{"audio_filepath": "tar.flac", "duration": 2.0, "shard_id": 1}\n'
    )
    words = ["manifest", "convert", str(folder / "n.json"), str(folder / "o.jsonl"), "--from", "nemo", "--to", "asr-kd"]
    refused = one_line(command(*words))
    assert "1 of 2 utterances cannot be used" in refused
    assert "row 2: its audio lies in a tar archive" in refused
    assert "--max-excluded-share" in refused
    assert not (folder / "o.jsonl").exists()
    done = command(*words, "--max-excluded-share", "0.5")
    assert done.code == 0, done.err
    assert "o.jsonl: 1 utterances" in done.out
    assert "not carried over: lang (1 rows)" in done.out
    assert "left out: tar.flac" in done.out
    assert "already exists" in one_line(command(*words))


def test_what_cannot_be_converted_is_one_line(own):
    folder, _ = own
    own_manifest = str(folder / "own.jsonl")
    (folder / "full").mkdir()
    (folder / "full" / "feats.scp").write_text("precious")
    assert "already exists" in one_line(
        command("manifest", "convert", own_manifest, str(folder / "full"), "--to", "kaldi")
    )
    assert (folder / "full" / "feats.scp").exists()
    assert "is not a manifest" in one_line(
        command("manifest", "convert", str(RECIPE), str(folder / "x.jsonl"), "--to", "nemo")
    )
    assert command("manifest", "convert", own_manifest, "x", "--to", "wav").code == 2
    empty = folder / "empty.jsonl"
    empty.write_text("")
    said = one_line(command("manifest", "convert", str(empty), str(folder / "x.jsonl"), "--to", "nemo"))
    assert "no utterances to write" in said


def test_check_of_a_folder_of_audio(own):
    folder, _ = own
    (folder / "own.jsonl").unlink()
    sound = command("check", str(folder))
    assert sound.code == 0, sound.err
    assert "note: no transcript: 2" in sound.out
    data = bytearray((folder / "two.flac").read_bytes())
    data[len(data) // 2] ^= 16
    (folder / "two.flac").write_bytes(data)
    (folder / "three.wav").write_text("no audio")
    hurt = command("check", str(folder))
    assert hurt.code == 1
    assert "PROBLEM: damaged audio: 1\n  two  " in hurt.out
    assert "PROBLEM: unusable audio: 1\n  three  " in hurt.out


def test_check_of_a_foreign_manifest_lists_what_is_no_utterance(own):
    folder, _ = own
    (folder / "wav.scp").write_text(f"u1 {folder}/one.flac\nu2 sox a.wav |\nu3 gone.flac\n")
    outcome = command("check", str(folder))
    assert outcome.code == 1
    assert "PROBLEM: not an utterance: 2" in outcome.out
    assert "a command, which would run code" in outcome.out
    assert "no such file" in outcome.out


@pytest.mark.parametrize("kind", ["manifest", "folder"])
def test_check_of_a_recipe_of_ones_own_speech(own, kind):
    folder, _ = own
    (folder / "heap").mkdir()
    soundfile.write(folder / "heap" / "long.flac", noise_speech(5.0).numpy(), 16_000)
    write_manifest(folder / "dev.jsonl", [Utterance("d", folder / "one.flac", 2.0, "A B", "t")])
    train = folder / ("own.jsonl" if kind == "manifest" else "heap")
    extra = ", max_seconds: 2, cut_window_seconds: 1" if kind == "folder" else ""
    lines = RECIPE.read_text().splitlines()
    begin = next(row for row, line in enumerate(lines) if line.startswith("corpus:"))
    end = next((row for row in range(begin + 1, len(lines)) if lines[row][:1] not in ("", " ")), len(lines))
    lines[begin:end] = [f"corpus: {{kind: {kind}, train: {train}, dev: {folder / 'dev.jsonl'}{extra}}}"]
    (folder / "mine.yaml").write_text("\n".join(lines))
    outcome = command("check", str(folder / "mine.yaml"), f"work_dir={folder / 'run'}")
    assert outcome.code == 0, outcome.out + outcome.err
    expected = "4 utterances" if kind == "manifest" else "1 files longer than 2 s are cut"
    assert expected in outcome.out


# -- librispeech -----------------------------------------------------------------------------------------


def test_download_checks_what_exists_and_fetches_the_rest(tmp_path, monkeypatch):
    (tmp_path / "LibriSpeech" / "dev-clean").mkdir(parents=True)
    words = ["download", "librispeech", "--into", str(tmp_path), "--splits", "dev-clean,test-clean"]
    assert "test-clean not found" in one_line(command(*words, "--check"))
    assert "without --check" in one_line(command(*words, "--check"))
    fetched = []

    def fetch(url: str, *arguments: object, **options: object) -> None:
        fetched.append(url.rsplit("/", 1)[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(librispeech.publisher, "download_url_to_file", fetch)
    assert command(*words).code == 130
    assert fetched == ["test-clean.tar.gz"]
    (tmp_path / "LibriSpeech" / "test-clean").mkdir()
    outcome = command(*words)
    assert outcome.code == 0
    assert f"corpus.root={tmp_path}" in outcome.out
    monkeypatch.setenv("ASR_KD_CORPORA", str(tmp_path))
    two = ("--splits", "dev-clean", "--splits", "test-clean")
    assert command("download", "librispeech", *two, "--check").code == 0


def test_an_unknown_corpus_or_split_is_refused(tmp_path):
    assert command("download", "librispeach").code == 2
    assert "no split 'dev-cleen'" in one_line(
        command("download", "librispeech", "--into", str(tmp_path), "--splits", "dev-cleen")
    )
