"""Hypotheses of other systems: every form, names that fit and names that do not, what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from asr_kd.cli import app
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.errors import TargetsError
from asr_kd.files import read_json, write_json
from asr_kd.targets.hypotheses import HypothesisStore, TextHypothesis
from asr_kd.targets.hypothesis_formats import form_of, read_hypotheses
from asr_kd.targets.importing import import_hypotheses, transcripts_of_pieces
from asr_kd.targets.pseudo_label_filters import LabelFilters
from asr_kd.targets.pseudo_labelling import LabelSettings
from asr_kd.teachers.whisper_transcriber import TimedSegment

UTTERANCES = [
    Utterance("an4-1", Path("audio/one.wav"), 1.0, "HELLO WORLD", "s"),
    Utterance("an4-2", Path("audio/two.flac"), 1.0, None, "s"),
    Utterance("an4-3", Path("audio/three.wav"), 1.0, "THREE", "s"),
]
ROWS = [
    {"id": "an4-1", "nbest": [{"text": "hello word", "score": -2.0}, {"text": "Hello, world!", "score": -0.5}]},
    {"id": "an4-2", "text": "two"},
    {"id": "an4-3", "text": ""},
]


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def json_lines(path: Path, rows: list) -> Path:
    return written(path, "".join(json.dumps(row) + "\n" for row in rows))


def best(folder) -> dict[str, str]:
    store = HypothesisStore.open(folder, normalizer="librispeech")
    return {id_: store[id_][0].text if store[id_] else "" for id_ in store}


def test_nbest_come_normalized_sorted_and_compared_with_transcripts(tmp_path):
    source = json_lines(tmp_path / "hyps.jsonl", ROWS)
    lines = import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech")
    store = HypothesisStore.open(tmp_path / "into", normalizer="librispeech")
    assert store["an4-1"] == [TextHypothesis("HELLO WORLD", -0.5), TextHypothesis("HELLO WORD", -2.0)]
    assert store["an4-2"] == [TextHypothesis("TWO", None)]
    assert store["an4-3"] == []
    assert lines == [
        f"{tmp_path / 'into'}: 3 hypotheses for 3 of 3 utterances (100.0 %)",
        "1 of these have no word in any hypothesis: they train no student",
        "WER of the best against 2 transcripts: 33.3 %",
    ]


FORMS = {
    "kaldi": ("text", "an4-1 hello world\nan4-2 two\nan4-3\n"),
    "trn": ("hyps.trn", "hello world (an4-1)\ntwo (an4-2)\n(an4-3)\n"),
    "ctm": (
        "hyps.ctm",
        ";; words\nan4-1 1 0.50 0.2 world 0.9\nan4-1 1 0.10 0.2 hello\nan4-2 A 0 0.3 two\nan4-3 1 0 0.1 three\n",
    ),
    "jsonl": (
        "hyps.jsonl",
        '{"audio_filepath": "x/one.wav", "text": "?", "pred_text": "hello world"}\n',
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_read_and_known_by_its_name(tmp_path, form):
    name, text = FORMS[form]
    source = written(tmp_path / name, text)
    assert form_of(source) == form
    import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech", min_coverage=0.3)
    found = best(tmp_path / "into")
    assert found["an4-1"] == "HELLO WORLD"
    assert found.get("an4-2", "TWO") == "TWO"
    other = written(tmp_path / "other", text)
    import_hypotheses(other, UTTERANCES, tmp_path / "imported", "librispeech", form, min_coverage=0.3)
    assert best(tmp_path / "imported") == found


def test_whispers_folder_is_matched_by_the_audio_files_names(tmp_path):
    folder = tmp_path / "whisper"
    segments = [{"id": 0, "start": 0.0, "end": 1.0, "text": " Hello world.", "avg_logprob": -0.2}]
    written(folder / "one.json", json.dumps({"text": " Hello world.", "segments": segments, "language": "en"}))
    parts = [{"text": " two", "offsets": {"from": 0, "to": 10}}, {"text": " two.", "offsets": {"from": 10, "to": 20}}]
    written(folder / "sub" / "two.flac.json", json.dumps({"model": {}, "transcription": parts}))
    written(folder / "an4-3.json", json.dumps({"text": "three"}))
    import_hypotheses(folder, UTTERANCES, tmp_path / "into", "librispeech")
    assert best(tmp_path / "into") == {"an4-1": "HELLO WORLD", "an4-2": "TWO TWO", "an4-3": "THREE"}


def test_names_without_utterances_and_utterances_without_names_are_listed(tmp_path):
    source = json_lines(tmp_path / "hyps.jsonl", [*ROWS[:2], {"id": "elsewhere", "text": "x"}])
    with pytest.raises(TargetsError, match=r"for 2 of 3 utterances.*at least 95 %"):
        import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech")
    assert not (tmp_path / "into").exists()
    lines = import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech", min_coverage=0.5)
    assert "1 names are not in the manifest: elsewhere" in lines
    listed = [json.loads(line) for line in (tmp_path / "into" / "quarantine.jsonl").read_text().splitlines()]
    assert {row["id"]: row["reason"] for row in listed} == {
        "an4-3": "no hypothesis was imported",
        "elsewhere": "not in the manifest",
    }


def test_names_that_fit_nothing_are_shown_beside_the_ids(tmp_path):
    source = json_lines(tmp_path / "hyps.jsonl", [{"id": "wrong", "text": "x"}])
    with pytest.raises(TargetsError, match=r"names are like wrong, the manifest's ids like an4-1"):
        import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech", min_coverage=0.0)


def test_an_audio_file_of_several_segments_cannot_be_matched_by_its_name(tmp_path):
    segments = [replace(UTTERANCES[0], id=f"seg-{start}", start=float(start)) for start in range(2)]
    source = json_lines(tmp_path / "hyps.jsonl", [{"id": "one", "text": "x"}])
    with pytest.raises(TargetsError, match=r"may mean several utterances.*seg-0, seg-1"):
        import_hypotheses(source, segments, tmp_path / "into", "librispeech")


def test_twice_by_id_and_by_file_is_refused(tmp_path):
    source = json_lines(tmp_path / "hyps.jsonl", [{"id": "an4-1", "text": "x"}, {"id": "one", "text": "y"}])
    with pytest.raises(TargetsError, match=r"hyps\.jsonl:2.*stands twice.*hyps\.jsonl:1"):
        import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"id": "x", "text": "y"}\n{"id": "x", "text": "z"}\n', r"'x' stands in .*:1 and .*:2"),
        ("a.jsonl", "{\n", r"a\.jsonl:1: not JSON"),
        ("a.jsonl", "[1]\n", "list instead of a mapping"),
        ("a.jsonl", '{"text": "y"}\n', "neither id nor audio_filepath"),
        ("a.jsonl", '{"id": "x"}\n', "neither text nor nbest"),
        ("a.jsonl", '{"id": "x", "nbest": []}\n', "not a list of at least one"),
        ("a.jsonl", '{"id": "x", "nbest": [{"txt": "y"}]}\n', "has no text"),
        ("a.jsonl", '{"id": "x", "nbest": [{"text": "y", "score": 1}, {"text": "z"}]}\n', "for all entries"),
        ("a.jsonl", '{"id": "x", "nbest": [{"text": "y", "score": NaN}]}\n', "finite numbers"),
        ("a.trn", "no id here\n", "no id in parentheses"),
        ("a.ctm", "x 1 zero 0.1 word\n", "not name, channel, start"),
        ("a.json", "{}", "neither `text` nor `transcription`"),
        ("a.json", "nothing", "not JSON"),
        ("text", "\n", "holds no hypotheses"),
    ],
)
def test_wrong_rows_are_named(tmp_path, name, text, message):
    path = written(tmp_path / name, text)
    with pytest.raises(TargetsError, match=message):
        read_hypotheses(path, form_of(path))


def test_unreadable_and_unnamed_forms_are_refused(tmp_path):
    path = tmp_path / "a.trn"
    with pytest.raises(TargetsError, match="cannot be read"):
        read_hypotheses(path, "trn")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TargetsError, match="cannot be read"):
        read_hypotheses(path, "trn")
    with pytest.raises(TargetsError, match="none: does not exist"):
        form_of(tmp_path / "none")
    (tmp_path / "hyps.txt").touch()
    with pytest.raises(TargetsError, match=r"--form whisper\|jsonl"):
        form_of(tmp_path / "hyps.txt")


def test_an_import_is_replaced_but_a_teachers_hypotheses_are_not(tmp_path):
    source, into = json_lines(tmp_path / "hyps.jsonl", ROWS), tmp_path / "into"
    import_hypotheses(source, UTTERANCES, into, "librispeech")
    before = HypothesisStore.open(into).info
    json_lines(source, [{**ROWS[0], "nbest": [{"text": "other"}]}, *ROWS[1:]])
    import_hypotheses(source, UTTERANCES, into, "librispeech")
    assert best(into)["an4-1"] == "OTHER"
    assert HypothesisStore.open(into).info != before
    index = into / "hypotheses.json"
    described = read_json(index)
    write_json(index, {**described, "source": {**described["source"], "kind": "teacher"}})
    with pytest.raises(TargetsError, match="another kind: teacher"):
        import_hypotheses(source, UTTERANCES, into, "librispeech")


def test_the_verb_imports_for_a_manifest_and_reports_what_came(tmp_path):
    manifest = tmp_path / "train.jsonl"
    write_manifest(manifest, UTTERANCES)
    source = json_lines(tmp_path / "hyps.jsonl", ROWS)
    done = CliRunner().invoke(
        app, ["targets", "import", str(source), str(manifest), "--into", str(tmp_path / "into"), "--form", "jsonl"]
    )
    assert done.exit_code == 0, done.output
    assert "3 hypotheses for 3 of 3 utterances" in " ".join(done.output.split())
    assert best(tmp_path / "into")["an4-2"] == "TWO"


PIECES = [
    Utterance("talk-0", Path("audio/talk.wav"), 10.0, None, "s"),
    Utterance("talk-1", Path("audio/talk.wav"), 8.0, None, "s", start=10.0),
    Utterance("talk-2", Path("audio/talk.wav"), 9.0, None, "s", start=18.0),
]


def segment(text: str, start: float, end: float, **more) -> dict:
    return {"text": text, "start": start, "end": end, "avg_logprob": -0.2, "no_speech_prob": 0.01, **more}


def test_segments_of_a_long_recording_go_to_the_pieces_it_was_cut_into(tmp_path):
    segments = [segment(" One.", 0.5, 4.0), segment(" Two,", 4.0, 10.2), segment(" three.", 10.2, 17.9)]
    source = written(tmp_path / "talk.json", json.dumps({"text": " One. Two, three.", "segments": segments}))
    lines = import_hypotheses(source, PIECES, tmp_path / "into", "librispeech", min_coverage=0.3)
    assert best(tmp_path / "into") == {"talk-0": "ONE TWO", "talk-1": "THREE", "talk-2": ""}
    assert lines[1].startswith("1 of these have no word")


def test_a_segment_over_a_border_leaves_both_pieces_out_unless_words_have_times(tmp_path):
    crossing = segment(" One two three", 8.0, 13.0)
    source = written(tmp_path / "talk.json", json.dumps({"text": "One two three", "segments": [crossing]}))
    import_hypotheses(source, PIECES, tmp_path / "into", "librispeech", min_coverage=0.3)
    assert best(tmp_path / "into") == {"talk-2": ""}
    listed = [json.loads(line) for line in (tmp_path / "into" / "quarantine.jsonl").read_text().splitlines()]
    reason = "a segment, or word, of the recording reaches over the utterance's border"
    assert {row["id"]: row["reason"] for row in listed} == {"talk-0": reason, "talk-1": reason}
    with pytest.raises(TargetsError, match=r"for 1 of 3.*reach over the borders of 2 utterances.*times of words"):
        import_hypotheses(source, PIECES, tmp_path / "into", "librispeech")
    words = [("One", 8.0, 9.0), (" two", 9.8, 10.3), (" three", 12.0, 13.0)]
    timed = crossing | {"words": [{"word": word, "start": start, "end": end} for word, start, end in words]}
    written(source, json.dumps({"text": "One two three", "segments": [timed]}))
    import_hypotheses(source, PIECES, tmp_path / "into", "librispeech", min_coverage=0.3)
    assert best(tmp_path / "into") == {"talk-0": "ONE", "talk-1": "TWO THREE", "talk-2": ""}


@pytest.mark.parametrize("names", [("talk", "talk-1"), ("talk-1", "talk")])
def test_a_recording_and_a_piece_of_it_are_refused_in_either_order(tmp_path, names):
    rows = [{"id": name, "text": "One", "segments": [segment("One", 11.0, 12.0)]} for name in names]
    source = json_lines(tmp_path / "hyps.jsonl", rows)
    with pytest.raises(TargetsError, match=r"hyps\.jsonl:2.*stands twice.*talk-1.*hyps\.jsonl:1"):
        import_hypotheses(source, PIECES, tmp_path / "into", "librispeech", min_coverage=0.3)


def test_words_of_a_long_recording_find_their_pieces_as_a_search_through_all_of_them_does():
    random = Random(0)
    pieces = [
        Utterance(f"p{index}", Path("talk.wav"), random.uniform(0.1, 9.0), None, "s", start=random.uniform(0, 100))
        for index in range(40)
    ]
    starts = [random.uniform(-1, 105) for _ in range(300)]
    segments = [TimedSegment(f"w{index}", start, start + random.uniform(0, 2)) for index, start in enumerate(starts)]
    texts, crossed = transcripts_of_pieces(segments, pieces)
    alone = [transcripts_of_pieces([segment], [piece])[0][piece.id].text for segment in segments for piece in pieces]
    touched = [[piece.id for piece in pieces if alone.pop(0)] for _ in segments]
    assert crossed == {id_ for ids in touched if len(ids) > 1 for id_ in ids}
    for piece in pieces:
        if piece.id not in crossed:
            words = [segment.text for segment, ids in zip(segments, touched, strict=True) if ids == [piece.id]]
            assert texts[piece.id].text == " ".join(words)


def test_imported_texts_are_written_as_words_and_filtered_by_their_measures(tmp_path):
    header = "id,text,avg_logprob,no_speech_prob\n"
    rows = 'an4-1,Enter 42.,-0.3,0.1\nan4-2,(music),-0.2,0.1\nan4-3,"Thank you.",-1.7,0.2\n'
    import_hypotheses(written(tmp_path / "hyps.csv", header + rows), UTTERANCES, tmp_path / "into", "librispeech")
    assert best(tmp_path / "into") == {"an4-1": "ENTER FORTY TWO"}
    listed = [json.loads(line) for line in (tmp_path / "into" / "quarantine.jsonl").read_text().splitlines()]
    reasons = {row["id"]: row["reason"] for row in listed}
    assert reasons == {"an4-2": "filtered out: empty", "an4-3": "filtered out: min_avg_logprob"}
    loose = LabelSettings(verbalize=False, filters=LabelFilters(min_avg_logprob=None))
    source = written(tmp_path / "hyps.csv", "id,text\nan4-1,Enter 42.\nan4-2,two\nan4-3,three\n")
    import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech", settings=loose)
    assert best(tmp_path / "into")["an4-1"] == "ENTER 42"


def test_a_measure_that_is_no_number_is_named(tmp_path):
    source = written(tmp_path / "hyps.csv", "id,text,avg_logprob\n\nan4-1,x,high\n")
    with pytest.raises(TargetsError, match=r"hyps\.csv:3: a measure is no number"):
        read_hypotheses(source, "csv")


def test_an_empty_prediction_is_not_replaced_by_the_reference(tmp_path):
    source = written(tmp_path / "hyps.csv", "id,text,pred_text\nan4-1,HELLO WORLD,\nan4-2,TWO,two\n")
    assert [item.hypotheses[0].text for item in read_hypotheses(source, "csv")] == ["", "two"]


def test_files_with_a_byte_order_mark_are_read(tmp_path):
    table, whisper = tmp_path / "hyps.csv", tmp_path / "an4-1.json"
    table.write_text("id,text\nan4-1,x\n", encoding="utf-8-sig")
    whisper.write_text('{"text": "x"}', encoding="utf-8-sig")
    for path in (table, whisper):
        (item,) = read_hypotheses(path, form_of(path))
        assert (item.name, item.hypotheses[0].text) == ("an4-1", "x")


def test_what_is_no_csv_is_named(tmp_path):
    source = written(tmp_path / "hyps.csv", f"id,text\nan4-1,x\nan4-2,{'word ' * 30_000}\n")
    with pytest.raises(TargetsError, match=r"hyps\.csv:3: not CSV"):
        read_hypotheses(source, "csv")


@pytest.mark.parametrize("segments", ["5", '"x"', "{}", "[1]", '[{"text": "x", "words": 5}]'])
def test_segments_of_another_form_are_ignored(tmp_path, segments):
    path = written(tmp_path / "an4-1.json", f'{{"text": "x", "segments": {segments}}}')
    (item,) = read_hypotheses(path, "whisper")
    assert (item.hypotheses[0].text, item.segments) == ("x", ())


def test_an_nbest_whose_first_entry_is_empty_keeps_the_others(tmp_path):
    nbest = [{"text": " ", "score": -0.5}, {"text": "two", "score": -0.9}, {"text": "too", "score": -3.0}]
    source = json_lines(tmp_path / "hyps.jsonl", [ROWS[0], {"id": "an4-2", "nbest": nbest}, ROWS[2]])
    lines = import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech")
    assert [text for text, _ in HypothesisStore.open(tmp_path / "into")["an4-2"]] == ["TWO", "TOO"]
    assert "1 of these have no word in any hypothesis: they train no student" in lines


def test_transcripts_of_the_share_stay_whatever_was_imported(tmp_path):
    source = json_lines(tmp_path / "hyps.jsonl", [{"id": "an4-1", "text": ""}, ROWS[1]])
    settings = LabelSettings(transcript_share=1.0)
    import_hypotheses(source, UTTERANCES, tmp_path / "into", "librispeech", min_coverage=0.5, settings=settings)
    assert best(tmp_path / "into") == {"an4-1": "HELLO WORLD", "an4-2": "TWO", "an4-3": "THREE"}
    assert (tmp_path / "into" / "quarantine.jsonl").read_text() == ""
