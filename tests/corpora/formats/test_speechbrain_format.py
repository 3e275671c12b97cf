"""SpeechBrain's CSV, as its own reader reads it."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speechbrain.dataio.dataio import load_data_csv, read_audio

from asr_kd.corpora.formats.catalogue import detect, read_table, render
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import CorpusError
from tests.helpers import rows


def table_of(path, *lines: str, **options):
    path.write_text("\n".join(lines) + "\n")
    return read_table(path, "auto", **options)


def test_rows_as_its_recipes_write_them(tmp_path):
    path = tmp_path / "train.csv"
    table = table_of(
        path,
        "ID,duration,wav,spk_id,wrd",
        "84-1-0,14.5,/ls/84/84-1-0.flac,84,THE CAT",
        '84-1-1, 2.5, rel/84-1-1.flac, 84, "A, B"',
        "84-1-2,3,/ls/84-1-2.flac,,",
    )
    assert detect(path) == "speechbrain"
    assert [(r.id, str(r.audio), r.text, r.speaker, r.duration, r.whole) for r in table.recordings] == [
        ("84-1-0", "/ls/84/84-1-0.flac", "THE CAT", "84", 14.5, True),
        ("84-1-1", str(tmp_path / "rel/84-1-1.flac"), "A, B", "84", 2.5, True),
        ("84-1-2", "/ls/84-1-2.flac", None, "unknown", 3.0, True),
    ]


@pytest.mark.parametrize("variable", ["$data_folder", "$data_root", "{data_root}", "${root}"])
def test_a_variable_is_the_data_root(tmp_path, variable):
    lines = ("ID,duration,wav", f"a,1.0,{variable}/x/a.wav")
    assert table_of(tmp_path / "a.csv", *lines, data_root=tmp_path / "r").recordings[0].audio == tmp_path / "r/x/a.wav"
    with pytest.raises(CorpusError, match=r"2 rows have audio below .*Set corpus.data_root .* --data-root$"):
        table_of(tmp_path / "a.csv", *lines, lines[-1].replace("a,", "b,", 1))


def test_start_and_stop_in_samples_or_in_seconds(tmp_path, speech):
    table = table_of(
        tmp_path / "a.csv",
        "ID,duration,wav,start,stop,spk_id,wrd,channel",
        f"samples,1.5,{speech}/one.flac,8000,32000,s,A,1",
        f"of-8k,1.5,{speech}/eight.wav,8000,20000,s,A,",
        f"seconds,1.5,{speech}/one.flac,0.5,2.0,s,A,",
        f"whole,4.0,{speech}/one.flac,0,64000,s,A,",
        f"neither,1.5,{speech}/one.flac,100,200,s,A,",
        "gone,1.5,gone.flac,8000,32000,s,A,",
        f"empty,4.0,{speech}/one.flac,,,s,A,",
    )
    assert [(r.id, r.start, r.duration, r.whole) for r in table.recordings] == [
        ("samples", 0.5, 1.5, False),
        ("of-8k", 1.0, 1.5, False),
        ("seconds", 0.5, 1.5, False),
        ("whole", 0.0, 4.0, True),
        ("empty", 0.0, 4.0, True),
    ]
    said = rows.reasons(table)
    assert said["neither"].startswith("row 6: from 100 to 200 is neither in samples nor in seconds")
    assert said["gone"] == "row 7: start and stop need the file's sample rate: no such file"
    assert table.dropped == {"channel": 1}


def test_the_old_form_is_listed(tmp_path):
    table = table_of(tmp_path / "a.csv", "ID,duration,wav,wav_format,wav_opts", "a,1.0,a.wav,wav,start:100 stop:200")
    assert "old form" in rows.reasons(table)["a"]
    good = table_of(tmp_path / "a.csv", "ID,duration,wav,wav_format,wav_opts", "a,1.0,a.wav,wav,")
    assert (len(good.recordings), good.dropped) == (1, {})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["ID,wav", "a,b"], "no column duration"),
        (["", ""], "no column ID, duration, wav"),
        (["ID,duration,wav", "a,1.0"], "a.csv:2: not as many fields as the header"),
        (["ID,duration,wav", "a,1.0,b,c"], "a.csv:2: not as many fields as the header"),
        (["ID,duration,wav", "a,x,b"], "duration is 'x', not a number"),
        (["ID,duration,wav", "a,nan,b"], "not a finite number"),
        (["ID,duration,wav", "a,-1,b"], "not a positive number"),
        (["ID,duration,wav", "a,1,"], "not a path"),
        (["ID,duration,wav", "a b,1,c"], "white space"),
        (["ID,duration,wav", "a,1,c", "a,1,d"], "'a' occurs in rows 2 and 3"),
        (["ID,duration,wav", 'a,1,"c'], "not CSV"),
    ],
)
def test_malformed_rows_are_errors(tmp_path, lines, message):
    with pytest.raises(CorpusError, match=message):
        table_of(tmp_path / "a.csv", *lines)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_round_trip_and_speechbrain_agrees(tmp_path, speech, data):
    written = data.draw(rows.utterances(speech))
    rendering = render(written, "speechbrain")
    said = rows.reasons(rendering)
    kept = [utterance for utterance in written if utterance.id not in said]
    assert all("holds a $" in reason for reason in said.values())
    assert all("$" in (utterance.text or "") for utterance in written if utterance.id in said)
    found, _, table = rows.through(tmp_path / "a.csv", kept, "speechbrain")
    assert (table.excluded, table.dropped) == ([], {})
    theirs = load_data_csv(tmp_path / "a.csv")
    assert list(theirs) == [utterance.id for utterance in kept]
    for ours, back in zip(kept, found, strict=True):
        same = ("id", "audio", "duration", "speaker")
        assert [getattr(ours, name) for name in same] == [getattr(back, name) for name in same]
        assert back.text == (ours.text or None)
        assert back.start == pytest.approx(ours.start, abs=1 / 8_000)
        row = theirs[ours.id]
        assert (row["wav"], row["duration"], row["spk_id"]) == (str(ours.audio), ours.duration, ours.speaker)
        assert row["wrd"] == (ours.text or "")


def test_speechbrain_hears_what_we_hear(tmp_path, speech):
    written = [
        Utterance("a", speech / "one.flac", 4.0, " led by a space", "s"),
        Utterance("b", speech / "two words.wav", 1.5, "B", "s", start=0.75),
    ]
    rows.through(tmp_path / "a.csv", written, "speechbrain")
    theirs = load_data_csv(tmp_path / "a.csv")
    assert theirs["a"]["wrd"] == " led by a space"
    for utterance in written:
        row = theirs[utterance.id]
        heard = read_audio({"file": row["wav"], "start": int(row["start"]), "stop": int(row["stop"])})
        torch.testing.assert_close(heard, read_utterance(utterance))


def test_what_is_lost_is_said(speech):
    some = [
        Utterance("a", speech / "stereo.flac", 4.0, "", "s", channels="first"),
        Utterance("b", speech / "gone.flac", 1.0, "B", "s", start=1.0),
    ]
    rendering = render(some, "speechbrain")
    assert rendering.dropped == {"an empty transcript (reads back as none)": 1}
    assert rendering.notes == ["1 rows state which channels are read: asr-kd reads that back, SpeechBrain ignores it"]
    assert rows.reasons(rendering) == {"b": "no such file"}


def test_channels_are_read_back(tmp_path, speech):
    written = [
        Utterance("a", speech / "stereo.flac", 4.0, "A", "s", channels="mean"),
        Utterance("b", speech / "stereo.flac", 1.0, "B", "s", channels="second", start=1.0),
        Utterance("c", speech / "one.flac", 4.0, "C", "s"),
    ]
    for some in (written, written[:1]):
        found, _, table = rows.through(tmp_path / "a.csv", some, "speechbrain")
        assert (found, table.dropped) == (some, {})
        assert list(load_data_csv(tmp_path / "a.csv")) == [utterance.id for utterance in some]


def test_a_csv_of_a_spreadsheet_begins_with_a_mark_and_ends_lines_with_two_characters(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffID,duration,wav,spk_id,wrd\r\na,1.0,a.wav,ann,É\r\n".encode())
    assert [(r.id, r.speaker, r.text) for r in read_table(path, "auto").recordings] == [("a", "ann", "É")]
