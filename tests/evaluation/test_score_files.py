"""Files of anyone's systems, scored side by side: `asr-kd score`, and the report that it writes."""

import json
import re

import pytest

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.report import read_results, write_report
from asr_kd.evaluation.report.text_renderers import terminal_table
from asr_kd.evaluation.score_files import named_file, named_pair, score_files
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.scoring.transcripts import read_transcripts, write_transcripts
from tests.helpers.evaluations import TEXTS as REFERENCES
from tests.helpers.evaluations import printed
from tests.helpers.tiny_run import command, one_line

RIGHT = dict(REFERENCES)
HALF = REFERENCES | {"ann-1": "two three four", "bob-1": "eight nine ten", "eve-1": "two"}
POOR = HALF | {"ann-2": "six", "bob-2": "x", "eve-2": "four five six"}
FEW = EvaluationSettings(normalizer="none", bootstrap_samples=200)


@pytest.fixture
def files(tmp_path):
    """The references as a manifest, and three systems, each in another form."""
    rows = [
        {"id": name, "audio": f"{name}.wav", "duration": 2.0, "text": text, "speaker": name[:3]}
        for name, text in REFERENCES.items()
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_transcripts(tmp_path / "teacher.trn", "trn", RIGHT)
    write_transcripts(tmp_path / "student-kd.jsonl", "jsonl", HALF)
    write_transcripts(tmp_path / "student-hard.txt", "kaldi", POOR)
    return tmp_path


def scored(files, *names, **options):
    settings = {"settings": FEW, **options}
    return score_files(files / "test.jsonl", [named_file(str(files / name)) for name in names], **settings)


def test_systems_in_different_forms_are_scored_beside_each_other(files):
    report = scored(files, "student-kd.jsonl", "teacher.trn", "student-hard.txt")
    assert list(report.sets) == ["test"]
    found = report.sets["test"]
    assert report.systems("test") == ["teacher", "student_hard", "student_kd"]
    errors = {key: round(16 * found[key]["wer"]) for key in report.systems("test")}
    assert errors == {"teacher": 0, "student_hard": 6, "student_kd": 3}
    assert found["gap_recovered"] == pytest.approx(0.5)
    assert found["seconds"] == 12.0
    pairs = {(pair["first"], pair["second"]): pair for pair in found["pairs"]}
    assert list(pairs) == [("student_hard", "teacher"), ("student_kd", "teacher"), ("student_kd", "student_hard")]
    kd = pairs["student_kd", "student_hard"]
    assert kd["difference"]["wer"] == pytest.approx(-3 / 16)
    assert (kd["mapsswe"]["segments"], kd["mapsswe"]["mean"]) == (6, -0.5)
    assert found["agreement"]["student_kd"]["only_teacher_words"] == 3
    assert found["student_hard"]["by_speaker"]["bob"]["errors"] == 2


def test_a_ctm_that_leaves_an_utterance_out_is_empty_there_and_listed(files):
    (files / "other.ctm").write_text("".join(
        f"{name} 1 {place} 0.5 {word}\n"
        for name, text in REFERENCES.items() if name != "eve-1"
        for place, word in enumerate(text.split())
    ))  # fmt: skip
    report = scored(files, "other.ctm")
    assert report.sets["test"]["other"]["deletions"] == 2
    assert report.summary["models"]["other"]["taken_as_silent"] == {"test": 2}  # bob-2 is empty anyway


def test_speakers_come_from_the_manifest_from_a_file_or_from_ids(files):
    write_transcripts(files / "plain.trn", "trn", REFERENCES)
    (files / "utt2spk").write_text("".join(f"{name} {name[-1]}\n" for name in REFERENCES))
    plain = files / "plain.trn", [(None, files / "student-kd.jsonl")], FEW
    for speakers, expected in (
        (None, []),
        ("prefix", ["ann", "bob", "eve"]),
        (str(files / "utt2spk"), ["1", "2"]),
    ):
        (found,) = score_files(*plain, speakers).sets.values()
        assert list(found["student_kd"]["by_speaker"]) == expected
        assert (found["student_kd"]["wer_low_speakers"] is None) == (not expected)
    (files / "utt2spk").write_text("ann-1 ann\n")
    with pytest.raises(EvaluationError, match="names no speaker for 5 of 6 utterances"):
        score_files(*plain, str(files / "utt2spk"))


def test_one_utterance_of_one_speaker_is_counted_in_the_singular(tmp_path):
    write_transcripts(tmp_path / "one.trn", "trn", {"ann-1": "one"})
    report = score_files(tmp_path / "one.trn", [("right", tmp_path / "one.trn")], FEW, "prefix")
    assert "one: 1 utterance, 1 speaker\n" in re.sub(" +\n", "\n", printed(terminal_table(report)))


def test_the_report_of_files_reads_like_any_other_and_scores_again_to_the_same(files):
    write_report(scored(files, "teacher.trn", "student-kd.jsonl"), files / "report")
    text = (files / "report" / "results.md").read_text()
    assert "6 utterances, 3 speakers, 0.2 min of speech." in text
    assert "| System | WER % | 95 % interval | by speaker | S | D | I | Words | CER % | Gap recovered |" in text
    assert "| student-kd | teacher | +18.75 | [" in text
    assert "| student-kd | 18.75 | 3 | 0 | 13 | 0 |" in text
    assert "| ann | 6 | 0.00 | 16.67 |" in text
    stored = read_results(files / "report")
    assert stored["test_sets"]["test"]["student_kd"]["by_speaker"]["ann"] == {
        "utterances": 2, "errors": 1, "words": 6, "wer": 1 / 6, "substitutions": 0, "deletions": 1, "insertions": 0,
        "cer": 4 / 26, "characters": 26, "character_substitutions": 0, "character_deletions": 4,
        "character_insertions": 0,
    }  # fmt: skip
    again = files / "report" / "hypotheses" / "test" / "student-kd.jsonl"
    (found,) = score_files(again, [(None, again)], FEW).sets.values()
    assert found["student_kd"]["wer"] == 3 / 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ann-1": None}, r"kd\.jsonl: 1 of 6 utterances are not in it \(ann-1\)"),
        ({"zoe-1": "x"}, r"kd\.jsonl: 1 of 7 hypotheses lack a reference \(zoe-1\)"),
    ],
)
def test_ids_that_do_not_match_are_refused(change, message, files):
    texts = {name: text for name, text in (HALF | change).items() if text is not None}
    write_transcripts(files / "student-kd.jsonl", "jsonl", texts)
    with pytest.raises(EvaluationError, match=message):
        scored(files, "student-kd.jsonl")


def test_an_empty_set_and_two_of_one_name_are_refused(files):
    (files / "a").mkdir()
    (files / "a" / "teacher.trn").write_text((files / "teacher.trn").read_text())
    with pytest.raises(EvaluationError, match="are both called 'teacher'; expected a name for each"):
        scored(files, "teacher.trn", "a/teacher.trn")
    (files / "test.jsonl").write_text("")
    with pytest.raises(EvaluationError, match="holds no transcript"):
        scored(files, "teacher.trn")


def test_how_the_command_line_names_files_and_pairs(tmp_path):
    assert named_file("kd=a/b.trn")[0] == "kd"
    assert named_file("a/b=c.trn")[0] is None
    assert named_pair("kd, hard") == Comparison("kd", "hard", None)
    assert named_pair("kd,hard,big") == Comparison("kd", "hard", "big")
    for wrong in ("=a.trn", "kd="):
        with pytest.raises(EvaluationError, match="expected NAME=FILE"):
            named_file(wrong)
    with pytest.raises(EvaluationError, match="expected DISTILLED,BASELINE"):
        named_pair("kd")


# -- the verb --------------------------------------------------------------------------------------------


def test_the_verb_prints_tables_intervals_and_tests(files):
    names = [str(files / name) for name in ("test.jsonl", "teacher.trn", "student-kd.jsonl", "student-hard.txt")]
    outcome = command("score", *names, "--normalizer", "none", "--by-speaker", "--samples", "200")
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    assert "Normalizer: none." in text
    assert "student-kd 18.75 [" in text
    assert "Gap recovered: 50 % [" in text
    assert "student-kd − student-hard: −18.75 points [" in text
    assert "MAPSSWE p 0.0253 (6 segments)" in text  # differences 0, 0, 0, 1, 1, 1: z = √5
    assert "Speaker Words teacher WER % student-hard WER % student-kd WER %" in text


def test_the_verb_writes_the_report_and_texts_for_others(files):
    names = [str(files / name) for name in ("test.jsonl", "teacher.trn", "student-kd.jsonl")]
    out = files / "out"
    outcome = command("score", *names, "--samples", "200", "--json", "--out", str(out), "--write", "trn")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == read_results(out)
    assert json.loads(outcome.out)["provenance"]["normalizer"] == "librispeech"
    expected = [".asr-kd-files", "reference.trn", "student_kd.trn", "teacher.trn"]
    assert sorted(path.name for path in (out / "trn").iterdir()) == expected
    assert read_transcripts(out / "trn" / "student_kd.trn", "hypothesis").texts["eve-1"] == "TWO"


def test_the_verb_writes_ctm_from_words_with_times(files):
    rows = [
        {
            "id": name,
            "text": text,
            "words": [
                {"word": word, "start": place, "end": place + 0.5, "confidence": 0.9}
                for place, word in enumerate(text.split())
            ],
        }
        for name, text in HALF.items()
    ]
    (files / "timed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["score", str(files / "test.jsonl"), str(files / "timed.jsonl"), "--out", str(files / "out")]
    assert command(*arguments, "--write", "ctm").code == 0
    written = read_transcripts(files / "out" / "ctm" / "timed.ctm", "hypothesis")
    assert written.texts == {name: text for name, text in HALF.items() if text}
    untimed = ["score", str(files / "test.jsonl"), str(files / "teacher.trn"), "--out", str(files / "out")]
    assert "5 of 6 texts have no times" in one_line(command(*untimed, "--write", "ctm"))


def test_what_the_verb_is_not_given_right_is_one_line(files):
    missing = command("score", str(files / "test.jsonl"), str(files / "nobody.trn"))
    assert "nobody.trn: cannot be read" in one_line(missing)
    assert command("score", str(files / "test.jsonl"), str(files / "teacher.trn"), "--write", "trn").code == 2
    assert command("score", str(files / "test.jsonl"), "x.trn", "--normalizer", "kaldi").code == 2
