"""NeMo's manifests, in its documented layout."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_kd.corpora.formats.catalogue import detect, read_table
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import CorpusError
from tests.helpers import rows


def manifest(path, *lines: object):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def read(path, **options):
    return read_table(path, "nemo", **options).recordings


def test_the_documented_rows(tmp_path):
    """https://docs.nvidia.com/nemo-framework/user-guide/latest/nemotoolkit/asr/datasets.html, and its offset."""
    path = manifest(
        tmp_path / "train_manifest.json",
        {"audio_filepath": "/data/an251.wav", "duration": 3.45, "text": "the transcription"},
        {"audio_filepath": "clips/b.wav", "duration": 2, "text": "second", "offset": 12.5, "lang": "en"},
        {"audio_filepath": "clips/b.wav", "duration": 1.5, "offset": 0, "speaker": "ann", "lang": "en"},
        {"audio_filename": "~/c.wav", "duration": 1.0, "normalized_text": "n", "id": "own"},
    )
    assert detect(path) == "nemo"
    table = read_table(path, "auto")
    assert table.dropped == {"lang": 2}
    found = [(r.id, str(r.audio), r.text, r.speaker, r.duration, r.start, r.whole) for r in table.recordings]
    assert found == [
        ("an251", "/data/an251.wav", "the transcription", "unknown", 3.45, 0.0, True),
        ("b-00012500", str(tmp_path / "clips" / "b.wav"), "second", "unknown", 2.0, 12.5, False),
        ("b-00000000", str(tmp_path / "clips" / "b.wav"), None, "ann", 1.5, 0.0, False),
        ("own", str(Path.home() / "c.wav"), "n", "unknown", 1.0, 0.0, True),
    ]
    assert str(read(path, data_root=tmp_path / "root")[1].audio) == str(tmp_path / "root" / "clips" / "b.wav")


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path):
    rows_ = [{"audio_filepath": f"{who}/d 1/001.wav", "duration": 1.0} for who in ("ann", "bob")]
    assert [r.id for r in read(manifest(tmp_path / "a.json", *rows_))] == ["ann-d_1-001", "bob-d_1-001"]


def test_rows_that_are_no_file_here_are_listed(tmp_path):
    path = manifest(
        tmp_path / "a.json",
        {"audio_filepath": "tar.wav", "duration": 1.0, "shard_id": 3},
        {"audio_filepath": "s3://bucket/a.wav", "duration": 1.0},
        {"audio_filepath": ["a.wav", "b.wav"], "duration": 1.0},
        {"audio_filepath": "a.wav", "duration": 1.0, "text_filepath": "a.txt"},
        {"audio_filepath": "fine.wav", "duration": 1.0},
    )
    table = read_table(path, "auto")
    assert [r.id for r in table.recordings] == ["fine"]
    said = [item.reason for item in table.excluded]
    assert [reason.split(":")[0] for reason in said] == ["row 1", "row 2", "row 3", "row 4"]
    for reason, words in zip(said, ("tar archive", "s3://bucket", "several files (2)", "text_filepath"), strict=True):
        assert words in reason


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "not JSON"),
        ("7", "int instead of a mapping"),
        ({"duration": 1.0}, "no audio_filepath"),
        ({"audio_filepath": "", "duration": 1.0}, "not a path"),
        ({"audio_filepath": "a\0", "duration": 1.0}, "not a path"),
        ({"audio_filepath": "a.wav"}, "duration is None"),
        ({"audio_filepath": "a.wav", "duration": 0}, "not a positive number"),
        ({"audio_filepath": "a.wav", "duration": "1"}, "not a positive number"),
        ({"audio_filepath": "a.wav", "duration": True}, "not a positive number"),
        ({"audio_filepath": "a.wav", "duration": 1, "offset": -1}, "seconds from 0"),
        ({"audio_filepath": "a.wav", "duration": 1, "text": 3}, "not a string"),
        ({"audio_filepath": "a.wav", "duration": 1, "speaker": True}, "not a string"),
        ({"audio_filepath": "caf\udce9.wav", "duration": 1}, "surrogates not allowed"),
        ({"audio_filepath": "a.wav", "duration": 1, "id": "../x"}, "out of a folder"),
        ({"audio_filepath": "good.wav", "duration": 1}, "'good' occurs in rows 1 and 2"),
    ],
)
def test_malformed_rows_are_errors(tmp_path, row, message):
    path = manifest(tmp_path / "a.json", {"audio_filepath": "good.wav", "duration": 1.0}, row)
    with pytest.raises(CorpusError, match=message) as caught:
        read(path)
    assert f"{path}:2" in str(caught.value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip(tmp_path, speech, data):
    written = data.draw(rows.utterances(speech))
    found, rendering, table = rows.through(tmp_path / "a.json", written, "nemo")
    assert found == written
    assert (rendering.excluded, table.excluded, table.dropped) == ([], [], {})
    for line, utterance in zip(rendering.texts[""].splitlines(), written, strict=True):
        row = json.loads(line)
        assert row["audio_filepath"] == str(utterance.audio)
        assert row["duration"] == utterance.duration
        assert row.get("offset", 0.0) == utterance.start
        assert row.get("text") == utterance.text


def test_channels_are_read_back_and_nemo_is_said_to_ignore_them(tmp_path, speech):
    written = [
        Utterance("a", speech / "stereo.flac", 4.0, None, "s", channels="mean"),
        Utterance("b", speech / "stereo.flac", 1.0, "B", "s", channels="second", start=1.0),
        Utterance("c", speech / "one.flac", 4.0, "C", "s"),
    ]
    found, rendering, table = rows.through(tmp_path / "a.json", written, "nemo")
    assert (found, rendering.dropped, table.dropped) == (written, {}, {})
    assert rendering.notes == ["2 rows state which channels are read: asr-kd reads that back, NeMo ignores it"]
    own = manifest(tmp_path / "b.json", {"audio_filepath": "a.wav", "duration": 1.0, "channels": 2})
    assert (read(own)[0].channels, read_table(own, "auto").dropped) == (None, {"channels": 1})


def test_speakers_may_be_numbers_and_the_file_may_begin_with_a_mark(tmp_path):
    """As manifests for speech synthesis and Windows' editors have them."""
    path = manifest(tmp_path / "a.json", '\ufeff{"audio_filepath": "a.wav", "duration": 1.0, "speaker": 92}')
    assert [(r.id, r.speaker) for r in read_table(path, "auto").recordings] == [("a", "92")]
