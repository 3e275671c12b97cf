"""Others' hypotheses in an evaluation: scored beside ours, on the same utterances, matched by id."""

from pathlib import Path

import pytest

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import Report, read_results
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.text_renderers import markdown
from asr_kd.evaluation.system import System, external_sha256
from asr_kd.scoring.transcripts import write_transcripts
from tests.helpers.evaluations import QUICK

SETTINGS = QUICK.model_copy(update={"normalizer": "librispeech"})


def with_others(**others):
    return SETTINGS.model_copy(update={"others": others})


@pytest.fixture
def theirs(utterances, tmp_path):
    """A trn file in capitals, with one utterance more and ann-2 wrong."""
    texts = {utterance.id: (utterance.text or "").upper() for utterance in utterances}
    write_transcripts(tmp_path / "theirs.trn", "trn", texts | {"ann-2": "FIVE", "zoe-1": "HELLO"})
    return tmp_path / "theirs.trn"


def test_they_stand_beside_ours_under_the_same_normalizer(theirs, utterances, stored, tmp_path):
    systems = [System("big", "teacher", stored())]
    evaluate_systems(systems, {"dev": utterances}, with_others(whisper=theirs), tmp_path / "report")
    summary = read_results(tmp_path / "report")
    found = summary["test_sets"]["dev"]
    assert (found["whisper"]["deletions"], found["whisper"]["words"]) == (1, 16)
    assert found["agreement"]["whisper"]["only_teacher_words"] == 1
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("whisper", "teacher")]
    assert summary["models"]["whisper"]["engine"] == "hypotheses in theirs.trn"
    assert "| whisper | 6.25 | [" in markdown(assemble(Report(summary)))


def test_what_was_left_out_for_ours_is_left_out_for_them(theirs, utterances, stored, tmp_path):
    utterances[1].audio.unlink()  # ann-2, the one that they have wrong
    settings = with_others(whisper=theirs).model_copy(update={"max_excluded_share": 0.5})
    evaluate_systems([System("big", "teacher", stored())], {"dev": utterances}, settings, tmp_path / "report")
    found = read_results(tmp_path / "report")["test_sets"]["dev"]
    assert (found["whisper"]["wer"], found["whisper"]["words"]) == (0, 14)


def test_their_file_need_not_have_utterances_of_damaged_audio(utterances, stored, tmp_path):
    utterances[1].audio.write_bytes(b"RIFF")
    write_transcripts(
        tmp_path / "theirs.trn", "trn", {item.id: item.text or "" for item in utterances if item.id != "ann-2"}
    )
    settings = with_others(whisper=tmp_path / "theirs.trn").model_copy(update={"max_excluded_share": 0.5})
    evaluate_systems([System("big", "teacher", stored())], {"dev": utterances}, settings, tmp_path / "report")
    assert read_results(tmp_path / "report")["test_sets"]["dev"]["whisper"]["wer"] == 0


def test_a_set_that_their_files_do_not_cover_is_without_them(theirs, utterances, stored, tmp_path):
    write_transcripts(tmp_path / "theirs.trn", "trn", {item.id: "x" for item in utterances[:3]})
    sets = {"one": utterances[:3], "two": utterances[3:]}
    evaluate_systems([System("big", "teacher", stored())], sets, with_others(whisper=theirs), tmp_path / "report")
    found = read_results(tmp_path / "report")["test_sets"]
    assert "whisper" in found["one"]
    assert "whisper" not in found["two"]
    assert found["two"]["pairs"] == []


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (["zoe-1"], r"theirs\.trn: has none of the utterances of this evaluation; expected utterance ids of dev"),
        (["ann-1"], r"theirs\.trn: 5 of 6 utterances are not in it \(ann-2, bob-1, bob-2, …\)"),
    ],
)
def test_ids_that_do_not_match_are_refused(known, message, theirs, utterances, stored, tmp_path):
    write_transcripts(theirs, "trn", dict.fromkeys(known, "x"))
    recognizer = stored()
    with pytest.raises(EvaluationError, match=message):
        evaluate_systems(
            [System("big", "teacher", recognizer)], {"dev": utterances}, with_others(whisper=theirs), tmp_path / "r"
        )
    assert recognizer.batches == []  # before anything is transcribed


def test_names_that_are_taken_and_files_that_are_not_there(theirs, utterances, stored, tmp_path):
    systems = [System("big", "teacher", stored())]
    for name, message in (("teacher", "the report uses the name 'teacher' itself"), ("a/b", "cannot be a file name")):
        with pytest.raises(EvaluationError, match=message):
            evaluate_systems(systems, {"dev": utterances}, with_others(**{name: theirs}), tmp_path / "r")
    for path in (tmp_path / "none.trn", Path("~no-user-of-this-name/none.trn")):
        with pytest.raises(
            EvaluationError, match=r"none\.trn: is not there; expected the hypotheses of evaluate.others"
        ):
            external_sha256({"x": path})
    assert len(external_sha256({"x": theirs})[0]) == 64
