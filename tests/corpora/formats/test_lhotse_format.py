"""lhotse's manifests, as lhotse itself writes and reads them."""

import gzip
import json

import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr_kd.corpora.formats.catalogue import complete, convert, detect, read_table, render
from asr_kd.corpora.formats.table import segment_name
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import CorpusError
from tests.helpers import rows

lhotse = pytest.importorskip("lhotse")
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet  # noqa: E402
from lhotse.qa import validate  # noqa: E402


@pytest.fixture
def recordings(speech):
    """The three mono files, and the one of two channels."""
    names = {"one": "one.flac", "two": "two words.wav", "eight": "eight.wav", "stereo": "stereo.flac"}
    return RecordingSet.from_recordings(
        Recording.from_file(speech / file, recording_id=name) for name, file in names.items()
    )


@pytest.fixture
def supervisions():
    """A whole file, two segments of another, an untranscribed one."""
    return SupervisionSet.from_segments(
        [
            SupervisionSegment("s-one", "one", 0.0, 4.0, text="FIRST", speaker="ann", language="en"),
            SupervisionSegment("s-two-a", "two", 0.5, 1.25, text="SECOND PART", speaker="bob"),
            SupervisionSegment("s-two-b", "two", 2.0, 2.0, text="THIRD", speaker="bob", gender="m"),
            SupervisionSegment("s-eight", "eight", 1.0, 1.0),
        ]
    )


def expected(speech) -> list[Utterance]:
    return [
        Utterance("s-one", speech / "one.flac", 4.0, "FIRST", "ann"),
        Utterance("s-two-a", speech / "two words.wav", 1.25, "SECOND PART", "bob", start=0.5),
        Utterance("s-two-b", speech / "two words.wav", 2.0, "THIRD", "bob", start=2.0),
        Utterance("s-eight", speech / "eight.wav", 1.0, None, "unknown", start=1.0),
    ]


def read(path, **options) -> list[Utterance]:
    return complete(read_table(path, "auto", **options).recordings, "refuse")[0]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_recordings_with_supervisions_by_any_of_their_paths(tmp_path, speech, recordings, supervisions, suffix):
    paths = [tmp_path / f"x_{kind}_train{suffix}" for kind in ("recordings", "supervisions")]
    recordings.to_file(paths[0])
    supervisions.to_file(paths[1])
    for path in (*paths, tmp_path):
        assert detect(path) == "lhotse"
        table = read_table(path, "auto")
        assert complete(table.recordings, "refuse")[0] == expected(speech)
        assert table.excluded == []
        assert table.dropped == {"language": 1, "gender": 1, "recordings without a supervision": 1}
        assert table.files == paths


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_cuts_are_read_as_lhotse_reads_them(tmp_path, speech, recordings, supervisions, suffix):
    mono = RecordingSet.from_recordings(r for r in recordings if r.id != "stereo")
    cuts = CutSet.from_manifests(recordings=mono, supervisions=supervisions).trim_to_supervisions().to_eager()
    path = tmp_path / f"cuts{suffix}"
    cuts.to_file(path)
    found = read(path)
    assert [(u.audio, u.start, u.duration, u.text) for u in found] == [
        (u.audio, u.start, u.duration, u.text) for u in expected(speech)
    ]
    assert [u.id for u in found] == [cut.id for cut in cuts]
    for utterance, cut in zip(found, cuts, strict=True):
        if cut.sampling_rate == 16_000:
            torch.testing.assert_close(read_utterance(utterance), torch.from_numpy(cut.load_audio()[0]))


def test_recordings_alone_are_untranscribed(tmp_path, speech, recordings):
    recordings.to_file(tmp_path / "recordings.jsonl")
    table = read_table(tmp_path, "auto")
    assert [(r.id, r.text, r.whole, r.duration) for r in table.recordings] == [
        (name, None, True, 4.0) for name in ("one", "two", "eight")
    ]
    assert rows.reasons(table) == {"stereo": "row 4: channels [0, 1] at once: set channels: first or mean"}
    assert len(read_table(tmp_path, "auto", channels="mean").recordings) == 4


def test_what_is_no_single_stretch_of_a_file_is_listed_by_row(tmp_path, recordings, supervisions):
    two = SupervisionSet.from_segments([*supervisions, SupervisionSegment("late", "stereo", 0, 4, channel=1)])
    one, both, *_ = [cut.with_id(cut.recording.id) for cut in CutSet.from_manifests(recordings, two)]
    commanded = json.loads(json.dumps(one.to_dict()))
    commanded["id"] = "commanded"
    commanded["recording"]["sources"][0] |= {"type": "command", "source": "rm -rf somewhere"}
    odd = [
        one,
        both,
        one.pad(6.0).with_id("padded"),
        one.mix(both).with_id("mixed"),
        one.perturb_speed(1.1).with_id("fast"),
        one.resample(8_000).with_id("resampled"),
        MonoCut("beyond", 1.0, 1.0, 0, [SupervisionSegment("x", "one", -0.5, 3.0, text="LONG")], None, one.recording),
        MonoCut("second", 0.0, 4.0, 1, [], None, recordings["stereo"]),
        MonoCut("first", 0.0, 4.0, 0, [], None, recordings["stereo"]),
        MonoCut("featured", 0.0, 4.0, 0, []),
    ]
    lines = [json.dumps(cut.to_dict()) for cut in odd] + [json.dumps(commanded)]
    (tmp_path / "cuts.jsonl").write_text("\n".join(lines) + "\n")
    table = read_table(tmp_path / "cuts.jsonl", "auto")
    assert [(r.id, r.channels) for r in table.recordings] == [("one", None), ("second", "second"), ("first", "first")]
    found = rows.reasons(table)
    for row, name, reason in (
        (2, "two", "2 supervisions in one cut: cut it with trim_to_supervisions"),
        (3, "padded", "a mixed (or padded) cut"),
        (4, "mixed", "a mixed (or padded) cut"),
        (5, "fast", "transformed while it is read (Speed)"),
        (6, "resampled", "transformed while it is read (Resample)"),
        (7, "beyond", "its transcript reaches from -0.5 to 2.5 s, the cut from 0 to 1 s"),
        (10, "featured", "without a recording"),
        (11, "commanded", "would run code"),
    ):
        assert found[name].startswith(f"row {row}: "), found[name]
        assert reason in found[name]
    assert len(found) == 8


def test_relative_paths_start_at_the_manifest_or_where_it_is_said(tmp_path, speech, monkeypatch):
    monkeypatch.chdir(speech)
    RecordingSet.from_recordings([Recording.from_file("one.flac")]).to_file(tmp_path / "recordings.jsonl")
    assert read(tmp_path, data_root=speech)[0].audio == speech / "one.flac"
    assert read_table(tmp_path, "auto").recordings[0].audio == tmp_path / "one.flac"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "list instead of a mapping"),
        ('{"id": "a", "type": "Other", "recording": {}, "supervisions": []}', "none of lhotse's cuts"),
        ('{"id": "a", "duration": -1, "recording": RECORDING, "supervisions": []}', "not a positive number"),
        ('{"id": "a", "start": -1, "duration": 1, "recording": RECORDING, "supervisions": []}', "seconds from 0"),
        ('{"id": "a b", "duration": 1, "recording": RECORDING, "supervisions": []}', "white space"),
        ('{"id": "fine", "duration": 1, "recording": RECORDING, "supervisions": []}', "occurs in rows 1 and 2"),
        ('{"id": "a", "recording_id": "one", "start": 0, "duration": 1}', "no recordings lie beside it"),
    ],
)
def test_a_malformed_row_is_an_error(tmp_path, line, message):
    recording = '{"id": "r", "sources": [{"type": "file", "source": "a"}], "sampling_rate": 16000, "duration": 1}'
    good = '{"id": "fine", "duration": 1, "recording": RECORDING, "supervisions": []}'
    text = "\n".join([good, line]).replace("RECORDING", recording)
    (tmp_path / "cuts.jsonl").write_text(text)
    with pytest.raises(CorpusError, match=message) as caught:
        read_table(tmp_path / "cuts.jsonl", "lhotse")
    assert f"{tmp_path / 'cuts.jsonl'}:2" in str(caught.value)


def test_a_broken_pair_is_said(tmp_path, recordings, supervisions):
    supervisions.to_file(tmp_path / "supervisions.jsonl")
    with pytest.raises(CorpusError, match=r"expected recordings\.jsonl beside it"):
        read_table(tmp_path / "supervisions.jsonl", "lhotse")
    recordings.subset(first=1).to_file(tmp_path / "recordings.jsonl")
    assert "'two' is not among the recordings" in rows.reasons(read_table(tmp_path, "lhotse"))["s-two-a"]
    recordings.to_file(tmp_path / "more_recordings.jsonl")
    with pytest.raises(CorpusError, match="2 files of recordings"):
        read_table(tmp_path, "lhotse")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 1000)[:20])
    with pytest.raises(CorpusError, match="cannot be read"):
        read_table(tmp_path / "cut.jsonl.gz", "lhotse")


# -- written ---------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(data=st.data())
def test_round_trip_and_lhotse_agrees(tmp_path, speech, data):
    written = data.draw(rows.utterances(speech))
    found, rendering, table = rows.through(tmp_path / "cuts.jsonl", written, "lhotse")
    assert (rendering.excluded, table.excluded) == ([], [])
    for ours, back in zip(written, found, strict=True):
        is_whole = back.start == 0 and back.duration == 4.0
        assert back == Utterance(
            ours.id, ours.audio, ours.duration, ours.text, ours.speaker, start=ours.start, whole=is_whole
        )
    cuts = CutSet.from_file(tmp_path / "cuts.jsonl").to_eager()
    validate(cuts)
    for ours, cut in zip(written, cuts, strict=True):
        assert (cut.id, cut.start, cut.duration) == (ours.id, ours.start, ours.duration)
        assert (cut.supervisions[0].text, cut.supervisions[0].speaker) == (ours.text, ours.speaker)


def test_lhotse_hears_what_we_hear(tmp_path, speech):
    written = [
        Utterance("a", speech / "one.flac", 4.0, "A", "s"),
        Utterance("b", speech / "two words.wav", 1.5, None, "s", start=0.75),
        Utterance("c", speech / "stereo.flac", 4.0, "C", "s", channels="first"),
    ]
    from asr_kd.corpora.manifest import write_manifest

    write_manifest(tmp_path / "own.jsonl", written)
    convert(tmp_path / "own.jsonl", tmp_path / "cuts.jsonl.gz", "auto", "lhotse")
    for cut, utterance in zip(CutSet.from_file(tmp_path / "cuts.jsonl.gz"), written, strict=True):
        torch.testing.assert_close(torch.from_numpy(cut.load_audio()[0]), read_utterance(utterance))


def test_files_that_are_not_there_are_listed_and_an_average_is_said_to_be_lost(tmp_path, speech):
    average = Utterance("mean", speech / "stereo.flac", 4.0, "C", "s", channels="mean")
    gone = Utterance("gone", tmp_path / "gone.flac", 4.0, "C", "s")
    long = Utterance("long", speech / "one.flac", 9.0, "C", "s")
    rendering = render([average, gone, long], "lhotse")
    assert rendering.dropped == {"channels: mean": 1}
    assert rows.reasons(rendering) == {
        "gone": "no such file",
        "long": "9.000 s in the manifest, 4.000 s in the file",
    }
    (tmp_path / "cuts.jsonl").write_text(rendering.texts[""])
    (cut,) = CutSet.from_file(tmp_path / "cuts.jsonl")
    assert cut.load_audio().shape == soundfile.read(speech / "stereo.flac")[0].T.shape
    assert [r.id for r in read_table(tmp_path / "cuts.jsonl", "auto", channels="mean").recordings] == ["mean"]


def test_segments_sort_by_their_names():
    assert segment_name("a", 12.345) == "a-00012345"
