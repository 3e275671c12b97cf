"""Kaldi's data folders, in their documented layout and by the rules of utils/validate_data_dir.sh."""

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from asr_kd.corpora.formats.catalogue import complete, convert, detect, read_table, render
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.errors import CorpusError
from tests.helpers import rows

DOCUMENTED = {  # https://kaldi-asr.org/doc/data_prep.html, shortened
    "wav.scp": "sw02001-A {speech}/one.flac\nsw02001-B {speech}/two words.wav\n",
    "segments": "sw02001-A_000098-001156 sw02001-A 0.98 1.56\nsw02001-B_000200-003000 sw02001-B 2.00 -1\n",
    "text": "sw02001-A_000098-001156 HI UM YEAH I'D LIKE TO TALK\nsw02001-B_000200-003000 UM-HUM\n",
    "utt2spk": "sw02001-A_000098-001156 2001-A\nsw02001-B_000200-003000 2001-B\n",
}


def folder(path: Path, files: dict[str, str], speech: Path = Path("/s")) -> Path:
    path.mkdir(exist_ok=True)
    for name, text in files.items():
        (path / name).write_text(text.format(speech=speech))
    return path


def test_the_documented_folder(tmp_path, speech):
    data = folder(tmp_path / "train", DOCUMENTED, speech)
    assert detect(data) == detect(data / "wav.scp") == "kaldi"
    table = read_table(data, "auto")
    assert complete(table.recordings, "refuse") == (
        [
            Utterance(
                "sw02001-A_000098-001156",
                speech / "one.flac",
                0.58,
                "HI UM YEAH I'D LIKE TO TALK",
                "2001-A",
                start=0.98,
            ),
            Utterance("sw02001-B_000200-003000", speech / "two words.wav", 2.0, "UM-HUM", "2001-B", start=2.0),
        ],
        [],
    )
    assert [file.name for file in table.files] == ["wav.scp", "segments", "text", "utt2spk"]


def test_without_segments_recordings_are_utterances(tmp_path, speech):
    files = {"wav.scp": "u1\t{speech}/one.flac\nu2 rel.wav\n", "text": "u1 HI  THERE\nu2\n", "utt2dur": "u2 2.5\n"}
    table = read_table(folder(tmp_path / "d", files, speech), "auto")
    assert [(r.id, r.audio, r.text, r.speaker, r.duration, r.whole) for r in table.recordings] == [
        ("u1", speech / "one.flac", "HI  THERE", "u1", None, True),
        ("u2", tmp_path / "d" / "rel.wav", "", "u2", 2.5, True),
    ]
    assert read_table(tmp_path / "d", "auto", data_root=speech).recordings[1].audio == speech / "rel.wav"
    (tmp_path / "d" / "text").unlink()
    assert [r.text for r in read_table(tmp_path / "d", "auto").recordings] == [None, None]


def test_commands_are_never_run_and_what_has_no_partner_is_listed(tmp_path):
    wavs = {
        "u1": "touch {speech}/ran; cat a.wav |",
        "u2": "flac -c -d -s a.flac > {speech}/ran; cat a.wav |",
        "u3": "raw.ark:1234",
        "u4": "-",
        "u5": "fine.wav",
        "u6": "untranscribed.wav",
        "u7": "http://example.org/a.wav",
    }
    files = {
        "wav.scp": "".join(f"{name} {value}\n" for name, value in wavs.items()),
        "text": "".join(f"{name} A\n" for name in [*(n for n in wavs if n != "u6"), "u8"]),
    }
    table = read_table(folder(tmp_path / "d", files, tmp_path), "auto")
    assert [r.id for r in table.recordings] == ["u5"]
    said = rows.reasons(table)
    assert "row 1: a command, which would run code" in said["u1"]
    assert "row 2: a command" in said["u2"]
    assert "archive or a stream" in said["u3"]
    assert "archive or a stream" in said["u4"]
    assert said["u6"] == "row 6: has audio but no transcript in text"
    assert "http://example.org" in said["u7"]
    assert said["u8"] == "row 7: has a transcript but no audio"
    assert not (tmp_path / "ran").exists()


def test_segments_of_other_recordings_and_channels_are_listed(tmp_path):
    files = {"wav.scp": "r a.wav\n", "segments": "u1 r 0 1\nu2 q 0 1\nu3 r 0 1 1\n"}
    table = read_table(folder(tmp_path / "d", files), "auto")
    assert [r.id for r in table.recordings] == ["u1"]
    assert rows.reasons(table) == {
        "u2": "row 2: its recording 'q' is not in wav.scp",
        "u3": "row 3: channel 1 of its recording: write it to a file of its own",
    }


@pytest.mark.parametrize("options", ["-c -d -s", "-cds", "-d -c"])
def test_the_decoding_of_a_flac_is_the_file(tmp_path, options):
    files = {"wav.scp": f"u flac {options} /ls/84/u.flac |\n"}
    assert [str(r.audio) for r in read_table(folder(tmp_path / "d", files), "auto").recordings] == ["/ls/84/u.flac"]
    for other in (f"flac {options} $(touch x).flac", "flac -c -s a.flac", f"flac {options} a.flac b.flac"):
        table = read_table(folder(tmp_path / "d", {"wav.scp": f"u {other} |\n"}), "auto")
        assert "would run code" in rows.reasons(table)["u"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav.scp": "u a.wav\nu b.wav\n"}, r"wav\.scp:2: the id 'u' occurs in rows 1 and 2"),
        ({"text": "u A\nv B\nu C\n"}, r"text:3: the id 'u' occurs in rows 1 and 3"),
        ({"wav.scp": "u\n"}, "not a path"),
        ({"wav.scp": "/u a.wav\n"}, "out of a folder"),
        ({"segments": "u r\n"}, r"segments:1: 2 fields"),
        ({"segments": "u r 1 x\n"}, "'x' is not a number"),
        ({"segments": "u r 2 1\n"}, "from 2 to 1 is no segment"),
        ({"segments": "u r -2 1\n"}, "from -2 to 1 is no segment"),
        ({"segments": "u r 0 nan\n"}, "not a finite number"),
        ({"utt2dur": "u 0\n"}, "utt2dur has '0' for u"),
    ],
)
def test_malformed_rows_are_errors(tmp_path, files, message):
    with pytest.raises(CorpusError, match=message):
        read_table(folder(tmp_path / "d", {"wav.scp": "u a.wav\n"} | files), "kaldi")


def test_a_folder_without_wavs_is_none(tmp_path):
    with pytest.raises(CorpusError, match=r"no wav\.scp"):
        read_table(tmp_path, "kaldi")


# -- written ---------------------------------------------------------------------------------------------


def sorted_by_kaldi(path: Path, *options: str) -> bytes:
    """What `sort` makes of it in Kaldi's locale."""
    done = subprocess.run(["sort", *options, path], env={**os.environ, "LC_ALL": "C"}, capture_output=True, check=True)
    return done.stdout


def validate(data: Path) -> None:
    """The rules of validate_data_dir.sh --no-feats."""
    columns = {path.name: [line.split() for line in path.read_text().splitlines()] for path in data.iterdir()}
    for path in data.iterdir():
        assert path.read_bytes().endswith(b"\n")
        assert sorted_by_kaldi(path) == path.read_bytes(), path
        names = [row[0] for row in columns[path.name]]
        assert all(first != second for first, second in pairwise(names))
    utt2spk = columns["utt2spk"]
    assert all(len(row) == 2 for row in utt2spk)
    assert sorted_by_kaldi(data / "utt2spk", "-k2") == (data / "utt2spk").read_bytes()
    assert sorted((name, row[0]) for row in columns["spk2utt"] for name in row[1:]) == sorted(map(tuple, utt2spk))
    utterances = [row[0] for row in utt2spk]
    for name in columns.keys() & {"text", "utt2dur", "segments"}:
        assert [row[0] for row in columns[name]] == utterances, name
    recordings = {row[1] for row in columns["segments"]} if "segments" in columns else set(utterances)
    assert {row[0] for row in columns["wav.scp"]} == recordings
    assert all(len(row) == 4 and float(row[3]) > float(row[2]) for row in columns.get("segments", []))
    assert all(float(row[1]) > 0 for row in columns["utt2dur"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), transcribed=st.booleans())
def test_round_trip_by_kaldis_rules(tmp_path_factory, speech, data, transcribed):
    written = data.draw(rows.utterances(speech, transcribed=transcribed))
    data_folder = tmp_path_factory.mktemp("kaldi") / "data"
    rendering = render(written, "kaldi")
    said = rows.reasons(rendering)
    assert all("reserves" in reason for reason in said.values())
    kept = [utterance for utterance in written if utterance.id not in said]
    assume(kept)
    found, rendering, table = rows.through(data_folder, kept, "kaldi")
    validate(data_folder)
    assert (table.excluded, table.dropped) == ([], {})
    by_name = {utterance.id: utterance for utterance in found}
    assert len(found) == len(kept) == rendering.utterances
    for ours in kept:
        name = ours.id if ours.id in by_name else f"{ours.speaker}-{ours.id}"
        back = by_name[name]
        text = None if ours.text is None else " ".join(ours.text.split())
        assert (back.audio, back.duration, back.text, back.speaker, back.start) == (
            ours.audio,
            ours.duration,
            text,
            ours.speaker,
            ours.start,
        )
        assert back.whole == all(utterance.whole for utterance in kept)


def test_ids_get_their_speaker_in_front_where_sorting_needs_it(tmp_path, speech):
    audio = speech / "one.flac"
    names = {"1-a": "1", "19-b": "1", "c": "2", "2": "2"}
    rendering = render([Utterance(name, audio, 4.0, "A", speaker) for name, speaker in names.items()], "kaldi")
    assert rendering.texts["utt2spk"] == "1-19-b 1\n1-a 1\n2 2\n2-c 2\n"
    assert rendering.notes == ["2 ids got their speaker as a prefix, which Kaldi needs for sorting"]


def test_what_kaldi_cannot_say_is_listed_or_refused(speech):
    audio = speech / "one.flac"
    some = [
        Utterance("s-a", audio, 4.0, "A", "s", channels="first"),
        Utterance("s-b", audio, 4.0, None, "s"),
        Utterance("s-c", audio, 4.0, "A <s> B", "s"),
        Utterance("s-d", audio, 4.0, "A", "two words"),
    ]
    rendering = render(some, "kaldi")
    assert rendering.utterances == 1
    assert rendering.dropped == {"channels: first": 1}
    said = rows.reasons(rendering)
    assert "no transcript, unlike others" in said["s-b"]
    assert "reserves" in said["s-c"]
    assert "white space" in said["s-d"]
    with pytest.raises(CorpusError, match="sort otherwise than their utterances"):
        render([Utterance("a-x", audio, 4.0, None, "a"), Utterance("a-b-c", audio, 4.0, None, "a-b")], "kaldi")
    with pytest.raises(CorpusError, match="'s-a' belongs to two utterances"):
        render([Utterance("s-a", audio, 4.0, None, "s"), Utterance("a", audio, 4.0, None, "s")], "kaldi")


def test_lhotse_reads_what_we_write(tmp_path, speech):
    lhotse_kaldi = pytest.importorskip("lhotse.kaldi")
    written = [
        Utterance("s-a", speech / "one.flac", 1.5, "A B", "s", start=0.5),
        Utterance("s-b", speech / "one.flac", 1.0, "C", "s", start=2.0),
        Utterance("t-c", speech / "two words.wav", 4.0, "D", "t"),
    ]
    write_manifest(tmp_path / "own.jsonl", written)
    convert(tmp_path / "own.jsonl", tmp_path / "data", "auto", "kaldi")
    recordings, supervisions, _ = lhotse_kaldi.load_kaldi_data_dir(tmp_path / "data", 16_000)
    assert sorted(str(recording.sources[0].source) for recording in recordings) == [
        str(speech / "one.flac"),
        str(speech / "two words.wav"),
    ]
    assert [(s.id, s.start, s.duration, s.text, s.speaker) for s in supervisions] == [
        (u.id, u.start, u.duration, u.text, u.speaker) for u in written
    ]


def test_we_read_what_lhotse_writes(tmp_path, speech):
    """Of a WAV its path; of a FLAC an ffmpeg command, which is not run."""
    lhotse = pytest.importorskip("lhotse")
    files = {"two": "two words.wav", "one": "one.flac"}
    recordings = [lhotse.Recording.from_file(speech / file, recording_id=name) for name, file in files.items()]
    parts = [lhotse.SupervisionSegment(f"{name}-1", name, 0.5, 1.5, text="A B", speaker="s") for name in files]
    lhotse.kaldi.export_to_kaldi(
        lhotse.RecordingSet.from_recordings(recordings),
        lhotse.SupervisionSet.from_segments(parts),
        tmp_path / "data",
    )
    table = read_table(tmp_path / "data", "auto")
    assert complete(table.recordings, "refuse") == (
        [Utterance("two-1", speech / "two words.wav", 1.5, "A B", "s", start=0.5)],
        [],
    )
    assert "a command, which would run code (ffmpeg" in rows.reasons(table)["one-1"]
