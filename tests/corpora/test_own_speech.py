"""A user's own speech: manifests of any format, and folders of untranscribed audio."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from asr_kd.audio import read_audio
from asr_kd.config import parse_settings
from asr_kd.corpora.corpus import read_prepared, write_prepared
from asr_kd.corpora.fingerprint import fingerprint
from asr_kd.corpora.folder import audio_files, cut_points, list_folder
from asr_kd.corpora.formats.catalogue import convert
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.corpora.prepare import hold_out, prepare
from asr_kd.corpora.recordings import read_utterance
from asr_kd.corpora.settings import FolderSettings, ManifestSettings, corpora_root
from asr_kd.corpora.utterance_checks import check_utterances
from asr_kd.errors import CorpusError, RecipeError
from tests.helpers.corpus_layouts import write_audio


class Heard:
    """A progress that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def own(tmp_path):
    """Three manifests over five files: train (with a segment and an untranscribed row), dev, test."""
    files = {name: write_audio(tmp_path / "audio" / f"{name}.flac", 2.0) for name in "abcde"}
    sets = {
        "train": [
            Utterance("a", files["a"], 2.0, "ONE", "s"),
            Utterance("b-1", files["b"], 0.75, "TWO", "s", start=0.5),
            Utterance("c", files["c"], 2.0, None, "t"),
        ],
        "dev": [Utterance("d", files["d"], 2.0, "THREE", "u")],
        "test": [Utterance("e", files["e"], 2.0, "FOUR", "v")],
    }
    for name, members in sets.items():
        write_manifest(tmp_path / f"{name}.jsonl", members)
    return tmp_path, sets


def settings_of(folder: Path, **changes) -> ManifestSettings:
    fields = {"train": folder / "train.jsonl", "dev": folder / "dev.jsonl", "test": {"mine": folder / "test.jsonl"}}
    return ManifestSettings(**(fields | changes))


# -- manifests -------------------------------------------------------------------------------------------


def test_manifests_become_a_corpus_and_stay_one(own):
    folder, sets = own
    corpus = prepare(settings_of(folder), folder)
    assert (corpus.train, corpus.dev, corpus.sets["mine"]) == (sets["train"], sets["dev"], sets["test"])
    assert (corpus.dev_sets, corpus.test_sets) == (("dev",), ("mine",))
    assert corpus.excluded == []
    write_prepared(corpus, folder / "run")
    assert read_prepared(folder / "run", check_files=True) == corpus


@pytest.mark.parametrize("name", ["lhotse", "nemo", "speechbrain", "kaldi"])
def test_any_format_gives_the_same_corpus(own, name):
    folder, sets = own
    target = folder / {"speechbrain": "train.csv", "kaldi": "train"}.get(name, "other.jsonl")
    transcribed = [utterance for utterance in sets["train"] if utterance.text]
    write_manifest(folder / "train.jsonl", transcribed)
    convert(folder / "train.jsonl", target, "auto", name)
    corpus = prepare(settings_of(folder, train=target), folder)
    expected = {"a": "s-a", "b-1": "s-b-1"} if name == "kaldi" else {"a": "a", "b-1": "b-1"}
    assert [u.id for u in corpus.train] == [expected[u.id] for u in transcribed]
    for found, ours in zip(corpus.train, transcribed, strict=True):
        assert (found.text, found.speaker, found.start, found.duration) == (
            ours.text,
            ours.speaker,
            ours.start,
            ours.duration,
        )
        assert torch.equal(read_utterance(found), read_utterance(ours))


def test_several_manifests_are_one_set_and_share_no_id(own):
    folder, sets = own
    corpus = prepare(settings_of(folder, train=[folder / "train.jsonl", folder / "test.jsonl"], test={}), folder)
    assert corpus.train == [*sets["train"], *sets["test"]]
    with pytest.raises(CorpusError, match=r"'e' belongs to .* \(train and mine\).*Leave it out"):
        prepare(settings_of(folder, train=[folder / "train.jsonl", folder / "test.jsonl"]), folder)


def test_files_of_one_name_in_several_manifests_without_ids_get_ids_of_their_own(tmp_path):
    for name in ("train", "dev", "more"):
        audio = write_audio(tmp_path / name / "1.flac", 2.0)
        row = {"audio_filepath": str(audio), "duration": 2.0, "text": "ONE"}
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    sets = {name: tmp_path / f"{name}.json" for name in ("train", "dev", "more")}
    corpus = prepare(ManifestSettings(train=sets["train"], dev=sets["dev"], test={"more": sets["more"]}), tmp_path)
    assert [(u.id, u.audio.parent.name) for u in corpus.utterances] == [("1", "train"), ("1-2", "dev"), ("1-3", "more")]
    with pytest.raises(CorpusError, match=r"the id '1' .* \(train and dev\)"):
        prepare(ManifestSettings(train=sets["train"], dev=sets["train"]), tmp_path)


def test_messages_name_the_manifest_at_fault_and_not_the_training_sets(own):
    folder, sets = own
    write_manifest(folder / "test.jsonl", [Utterance("gone", folder / "gone.flac", 1.0, "A", "s"), *sets["test"]])
    with pytest.raises(CorpusError, match=r"^\S*test\.jsonl: 1 of 6 utterances cannot be used"):
        prepare(settings_of(folder), folder)
    write_manifest(folder / "test.jsonl", sets["dev"])
    with pytest.raises(CorpusError, match=r"^\S*dev\.jsonl, \S*test\.jsonl: the id 'd' belongs to"):
        prepare(settings_of(folder), folder)
    (folder / "test.jsonl").write_text("")
    with pytest.raises(CorpusError, match=r"^\S*test\.jsonl: the set 'mine' is empty"):
        prepare(settings_of(folder), folder)


def test_a_home_folder_is_found_for_dev_of_a_folder_of_audio_and_an_unknown_user_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FolderSettings(train="audio", dev="~/dev.csv").dev == [tmp_path / "dev.csv"]
    with pytest.raises(CorpusError, match="~no-user-of-this-name: no such folder"):
        corpora_root(Path("~no-user-of-this-name"))


def test_rows_whose_file_is_not_what_they_say_are_left_out_or_stop_it(own):
    folder, sets = own
    short = [
        *sets["train"],
        Utterance("gone", folder / "gone.flac", 1.0, "A", "s"),
        Utterance("late", folder / "audio" / "a.flac", 1.5, "A", "s", start=1.0),
        Utterance("long", folder / "audio" / "a.flac", 3.0, "A", "s"),
        Utterance("part", folder / "audio" / "a.flac", 1.0, "A", "s"),
    ]
    write_manifest(folder / "train.jsonl", short)
    with pytest.raises(CorpusError, match=r"4 of 9 utterances cannot be used.*corpus\.data_root") as caught:
        prepare(settings_of(folder), folder)
    for reason in ("gone.flac: no such file", "1.000–2.500 s in the manifest, 2.000 s in", "3.000 s in the manifest"):
        assert reason in str(caught.value)
    corpus = prepare(settings_of(folder, max_excluded_share=0.5), folder)
    assert [item.id for item in corpus.excluded] == ["gone", "late", "long", "part"]
    assert corpus.train == sets["train"]


def test_what_a_row_cannot_say_is_said(own):
    folder, _ = own
    row = {"audio_filepath": "audio/a.flac", "duration": 2.0, "text": "A", "lang": "en"}
    mixed = {"audio_filepath": "audio/b.flac", "duration": 2.0, "shard_id": 1}
    (folder / "train.json").write_text("".join(json.dumps(item) + "\n" for item in (row, mixed)))
    heard = Heard()
    corpus = prepare(settings_of(folder, train=folder / "train.json", max_excluded_share=0.5), folder, heard)
    assert heard.lines == ["  not used of the manifests: lang (1 rows)"]
    assert [item.reason for item in corpus.excluded] == ["row 2: its audio lies in a tar archive (shard_id): unpack it"]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (ManifestSettings, {"train": []}, "train"),
        (ManifestSettings, {"format": "kaldy"}, "format"),
        (ManifestSettings, {"test": {"train": "x"}}, "the name 'train'"),
        (ManifestSettings, {"test": {"../x": "x"}}, "the name '../x'"),
        (ManifestSettings, {"dev": None}, "dev"),
        (ManifestSettings, {"rooot": "x"}, "unknown key 'rooot'"),
        (FolderSettings, {"max_seconds": 5.0}, "max_seconds must be at least"),
        (FolderSettings, {"extensions": ["flac"]}, "'flac' must be a dot"),
        (FolderSettings, {"extensions": []}, "at least one ending"),
        (FolderSettings, {"min_seconds": 0.0}, "min_seconds: allowed: at least 0.1"),
        (FolderSettings, {"speakers": "two"}, "speakers"),
    ],
)
def test_wrong_settings_are_refused(kind, changes, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(kind, {"train": "a", "dev": "b"} | changes, "recipe")


def test_the_fingerprint_sees_the_manifests_and_the_files_they_name(own):
    folder, sets = own
    settings = settings_of(folder)
    seen = [fingerprint(settings)]
    assert fingerprint(settings) == seen[0]

    def changed() -> bool:
        seen.append(fingerprint(settings))
        return seen[-1] not in seen[:-1]

    write_audio(folder / "audio" / "e.flac", 1.0)
    assert changed()
    (folder / "audio" / "e.flac").unlink()
    assert changed()
    write_manifest(folder / "dev.jsonl", [*sets["dev"], *sets["test"]])
    assert changed()
    write_audio(folder / "audio" / "unnamed.flac", 1.0)
    assert not changed()
    convert(folder / "train.jsonl", folder / "nemo.json", "auto", "nemo")
    settings = settings_of(folder, train=folder / "nemo.json")
    assert changed()


# -- folders ---------------------------------------------------------------------------------------------


def bursts(seconds: float, quiet_at: list[float]) -> np.ndarray:
    """Noise with a pause of 0.3 s around each of the points."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(seconds * 16_000))
    for point in quiet_at:
        samples[round((point - 0.15) * 16_000) : round((point + 0.15) * 16_000)] *= 1e-3
    return samples


@pytest.fixture
def heap(own):
    """A folder as people have them, beside the manifests."""
    folder, _ = own
    heap = folder / "heap"
    for name in ("ann/one.flac", "ann/deep/er/two.WAV", "bob/one.flac", "loose.mp3", ".hidden/x.wav", "bob/.y.wav"):
        path = heap / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(write_audio(folder / f"x{Path(name).suffix.lower()}", 2.0).read_bytes())
    (heap / "ann" / "notes.txt").write_text("no audio")
    write_audio(heap / "bob" / "blip.wav", 0.2)
    return folder, heap


def folder_settings(folder: Path, **changes) -> FolderSettings:
    return FolderSettings(**({"train": folder / "heap", "dev": folder / "dev.jsonl"} | changes))


def test_a_folder_is_searched_and_its_sub_folders_are_speakers(heap):
    folder, _ = heap
    corpus = prepare(folder_settings(folder, test={"mine": folder / "test.jsonl"}), folder)
    assert [(u.id, u.speaker, u.text, u.whole) for u in corpus.train] == [
        ("ann-deep-er-two", "ann", None, True),
        ("ann-one", "ann", None, True),
        ("bob-one", "bob", None, True),
        ("loose", "heap", None, True),
    ]
    assert [(item.id, item.reason) for item in corpus.excluded] == [
        ("bob-blip", "lasts 0.200 s, less than min_seconds (0.5)")
    ]
    assert [u.text for u in (*corpus.dev, *corpus.sets["mine"])] == ["THREE", "FOUR"]
    one = prepare(folder_settings(folder, speakers="one", extensions=[".flac"]), folder)
    assert {(u.audio.suffix, u.speaker) for u in one.train} == {(".flac", "heap")}


def test_unreadable_files_count_and_short_ones_do_not(heap):
    folder, root = heap
    (root / "broken.flac").write_bytes(b"no audio")
    with pytest.raises(CorpusError, match=r"1 of 7 utterances cannot be used.*broken\.flac"):
        prepare(folder_settings(folder), folder)
    corpus = prepare(folder_settings(folder, max_excluded_share=0.2), folder)
    assert [item.id for item in corpus.excluded] == ["broken", "bob-blip"]


def test_two_files_of_one_name_are_named(heap):
    folder, root = heap
    write_audio(root / "ann" / "one.wav", 1.0)
    with pytest.raises(CorpusError, match=r"'ann-one' belongs to .*one\.flac and to .*one\.wav"):
        prepare(folder_settings(folder), folder)


def test_nothing_there_is_said(heap):
    folder, _ = heap
    with pytest.raises(CorpusError, match=r"holds no audio; expected files named \.ogg"):
        prepare(folder_settings(folder, extensions=[".ogg"]), folder)
    with pytest.raises(CorpusError, match="no such folder"):
        prepare(folder_settings(folder, train=folder / "none"), folder)
    with pytest.raises(CorpusError, match="the set 'train' is empty; 5 were left out"):
        prepare(folder_settings(folder, min_seconds=5), folder)


def test_long_files_are_cut_at_their_quietest_points(own):
    folder, _ = own
    (folder / "heap").mkdir()
    pauses = [3.6, 7.1, 9.3]
    soundfile.write(folder / "heap" / "long.flac", bursts(13.0, pauses), 16_000)
    write_audio(folder / "heap" / "short.flac", 2.0)
    settings = folder_settings(folder, max_seconds=4.0, cut_window_seconds=2.0)
    heard = Heard()
    corpus = prepare(settings, folder, heard)
    assert heard.lines == ["  1 files longer than 4 s are cut at their quietest points: 5 utterances of 2 files"]
    pieces = corpus.train[:-1]
    assert corpus.train[-1].id == "short"
    assert corpus.train[-1].whole
    assert [u.start for u in pieces][1:] == pytest.approx(pauses, abs=0.11)  # inside the pause
    assert [u.id for u in pieces] == [f"long-{round(1000 * u.start):08d}" for u in pieces]
    assert all(u.duration <= 4.0 and not u.whole for u in pieces)
    assert torch.equal(torch.cat([read_utterance(u) for u in pieces]), read_audio(folder / "heap" / "long.flac"))
    assert check_utterances(corpus.train, None, "none").problems == []
    write_prepared(corpus, folder / "run")
    assert read_prepared(folder / "run") == corpus


@pytest.mark.parametrize("seconds", [4.02, 5.99, 6.0, 6.01, 7.5, 10.0, 61.3])
def test_no_piece_is_too_long_or_a_splinter(tmp_path, seconds):
    soundfile.write(tmp_path / "a.flac", bursts(seconds, []), 16_000)
    settings = FolderSettings(train=tmp_path, dev="d", max_seconds=4.0, cut_window_seconds=2.0)
    points = cut_points(Utterance("a", tmp_path / "a.flac", seconds, None, "s"), settings)
    lengths = np.diff([0.0, *points, seconds])
    assert len(points) >= 1
    assert lengths.max() <= 4.0 + 1e-9
    assert lengths.min() >= 1.0 - 1e-9
    assert all(round(100 * point) == pytest.approx(100 * point, abs=1e-6) for point in points)


def test_damage_where_a_cut_is_sought_leaves_the_file_out(own):
    folder, _ = own
    write_audio(folder / "heap" / "good.flac", 2.0)
    path = write_audio(folder / "heap" / "long.flac", 10.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)
    cut = {"max_seconds": 4.0, "cut_window_seconds": 3.0}
    with pytest.raises(CorpusError, match=r"1 of 2 utterances cannot be used.*long\.flac"):
        prepare(folder_settings(folder, **cut), folder)
    corpus = prepare(folder_settings(folder, **cut, max_excluded_share=0.5), folder)
    assert [u.id for u in corpus.train] == ["good"]
    assert "cannot be decoded" in corpus.excluded[0].reason


def test_the_fingerprint_sees_every_file_of_the_folder(heap):
    folder, root = heap
    settings = folder_settings(folder)
    before = fingerprint(settings)
    (root / "ann" / "notes.txt").write_text("still no audio")
    assert fingerprint(settings) == before
    write_audio(root / "ann" / "deep" / "er" / "three.wav", 1.0)
    after = fingerprint(settings)
    assert after != before
    write_audio(root / "ann" / "deep" / "er" / "three.wav", 1.5)
    assert fingerprint(settings) != after
    assert len(audio_files(root, settings.extensions)) == len(list_folder(root, settings)) == 6


def test_links_to_folders_are_followed_once(heap, tmp_path):
    folder, root = heap
    write_audio(tmp_path / "elsewhere" / "six.wav", 1.0)
    (root / "carl").symlink_to(tmp_path / "elsewhere")
    before = audio_files(root, (".flac", ".wav"))
    assert root / "carl" / "six.wav" in before
    (root / "above").symlink_to(folder)  # and back into the heap, without end
    write_audio(folder / "beside" / "seven.wav", 1.0)
    (root / "again").symlink_to(root / "ann")
    after = audio_files(root, (".flac", ".wav"))
    assert len({path.resolve() for path in after}) == len(after)
    assert {path.resolve() for path in before} == {path.resolve() for path in after}, "what is beside it is not in it"


def test_folders_that_cannot_be_read_and_names_that_are_not_utf8_are_refused(heap, monkeypatch):
    folder, root = heap
    name = os.fsdecode(b"caf\xe9.wav")
    write_audio(root / "ann" / "cafe.wav", 1.0).rename(root / "ann" / name)
    with pytest.raises(CorpusError, match=r"1 names of files or folders are not UTF-8: .*caf\\xe9\.wav"):
        prepare(folder_settings(folder), folder)
    scan = os.scandir

    def refused(path: Path) -> object:
        if Path(path) == root / "bob":  # the tests may run as root, who may read everything
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(CorpusError, match=r"bob: cannot be searched \(Permission denied\)"):
        prepare(folder_settings(folder), folder)


def test_a_speaker_longer_than_the_share_is_not_held_out_where_another_is_shorter():
    lengths = {"anna": 9000.0, "bea": 600.0, "carl": 500.0}
    train, dev = hold_out([Utterance(who, Path(f"{who}.wav"), s, None, who) for who, s in lengths.items()], 0.1)
    assert ([u.id for u in train], [u.id for u in dev]) == (["anna", "bea"], ["carl"])
    even = {"anna": 902.0, "bea": 900.0, "carl": 901.0}
    _, dev = hold_out([Utterance(who, Path(f"{who}.wav"), s, None, who) for who, s in even.items()], 0.1)
    assert [u.id for u in dev] == ["bea"]


@pytest.mark.parametrize(
    ("speakers", "files", "held"),
    [(4, 8, "speaker"), (1, 8, "audio"), (1, 1, "id")],
)
def test_a_part_is_held_out_by_speaker_then_by_recording_then_by_utterance(speakers, files, held):
    utterances = [
        Utterance(f"u{n}", Path(f"{n % files}.wav"), 10.0, None, f"s{n % speakers}", start=10.0 * n) for n in range(40)
    ]
    train, dev = hold_out(utterances, 0.25)
    assert sorted(u.id for u in [*train, *dev]) == sorted(u.id for u in utterances)
    assert not {getattr(u, held) for u in train} & {getattr(u, held) for u in dev}
    assert 0 < len(dev) <= 10
