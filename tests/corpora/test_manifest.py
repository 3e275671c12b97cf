"""Manifests: round trip, and every wrong row named."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_kd.corpora.manifest import Utterance, hours, id_problem, read_manifest, write_manifest
from asr_kd.errors import CorpusError

ROW = {"id": "a-1", "audio": "a.flac", "duration": 1.5, "text": "HELLO", "speaker": "a"}

utterances = st.builds(
    Utterance,
    id=st.text(min_size=1, max_size=200).filter(lambda name: id_problem(name) is None),
    audio=st.text("abcdé /.", min_size=1).map(lambda name: Path("/corpus") / f"{name}.flac"),
    duration=st.floats(1e-6, 1e6),
    text=st.none() | st.text(),
    speaker=st.text(),
)


def write_rows(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(utterances, max_size=5, unique_by=lambda utterance: utterance.id))
def test_round_trip(tmp_path, written):
    path = tmp_path / "train.jsonl"
    write_manifest(path, written)
    assert read_manifest(path) == written


def test_relative_audio_starts_at_the_manifest_and_is_written_absolute(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROW | {"extra": 1})
    (found,) = read_manifest(path)
    assert found.audio == tmp_path / "a.flac"
    write_manifest(path, [Utterance("x", Path("some/a.flac"), 1.0, None, "s")])
    assert Path(json.loads(path.read_text())["audio"]).is_absolute()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "not JSON"),
        ("", "not JSON"),
        ([1], "list instead of a mapping"),
        ({"id": "a"}, "no audio, duration, text, speaker"),
        (ROW | {"id": 7}, "not a string"),
        (ROW | {"text": 7}, "not a string"),
        (ROW | {"audio": "a\0b"}, "not a path"),
        (ROW | {"duration": 0}, "not a positive number"),
        (ROW | {"duration": -1.5}, "not a positive number"),
        (ROW | {"duration": "1.5"}, "not a positive number"),
        (ROW | {"duration": True}, "not a positive number"),
        ('{"id": "b", "audio": "a", "duration": NaN, "text": "", "speaker": ""}', "not a positive number"),
        ('{"id": "b", "audio": "a", "duration": Infinity, "text": "", "speaker": ""}', "not a positive number"),
        (ROW | {"id": "../evil"}, "out of a folder"),
        (ROW | {"id": "a/../../evil"}, "out of a folder"),
        (ROW | {"id": "/etc/passwd"}, "out of a folder"),
        (ROW | {"id": "a\\b"}, "out of a folder"),
        (ROW | {"id": "a\0b"}, "control character"),
        (ROW | {"id": "a b"}, "white space"),
        (ROW | {"id": ""}, "is empty"),
        (ROW | {"id": "x" * 300}, "300 characters"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    path = write_rows(tmp_path / "a.jsonl", ROW, row)
    with pytest.raises(CorpusError, match=message) as caught:
        read_manifest(path)
    assert f"{path}:2" in str(caught.value)


def test_all_wrong_rows_are_in_one_message(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", *[ROW | {"duration": -1}] * 30)
    with pytest.raises(CorpusError, match="30 wrong rows") as caught:
        read_manifest(path)
    assert f"{path}:20" in str(caught.value)
    assert "and 10 more" in str(caught.value)


def test_a_repeated_id_names_both_rows(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ROW, ROW | {"id": "b"}, ROW)
    with pytest.raises(CorpusError, match="'a-1' occurs in rows 1 and 3"):
        read_manifest(path)


def test_missing_files_are_all_listed_when_asked_for(tmp_path):
    (tmp_path / "here.flac").touch()
    rows = [ROW | {"id": name, "audio": f"{name}.flac"} for name in ("gone", "here", "lost")]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    assert len(read_manifest(path)) == 3
    with pytest.raises(CorpusError, match=r"2 wrong rows.*gone\.flac: no such file.*lost\.flac: no such file"):
        read_manifest(path, check_files=True)


@pytest.mark.parametrize("utterance", [("../a", 1.0), ("a", 0.0), ("a", float("nan"))])
def test_nothing_is_written_when_an_utterance_is_wrong(tmp_path, utterance):
    path = tmp_path / "a.jsonl"
    write_manifest(path, [Utterance("old", Path("/a"), 1.0, "", "")])
    before = path.read_bytes()
    with pytest.raises(CorpusError):
        write_manifest(path, [Utterance(utterance[0], Path("/a"), utterance[1], "", "")])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_and_empty_manifests(tmp_path):
    path = tmp_path / "a.jsonl"
    with pytest.raises(CorpusError, match="cannot be read"):
        read_manifest(path)
    path.write_text("")
    assert read_manifest(path) == []


def test_hours():
    assert hours([Utterance("a", Path("a"), 1800.0, None, "s")] * 3) == 1.5
