"""Every system sees the same utterances; what is left out is listed; what cannot be compared is refused."""

import dataclasses

import pytest

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import EvaluationError, StoppedEarly
from asr_kd.evaluation.evaluate import evaluate_systems, spread
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.resumption import Resumption, SetVariant
from asr_kd.evaluation.system import System
from tests.helpers.evaluations import QUICK

SETTINGS = QUICK.model_copy(update={"rtf_utterances": 2})


class Recorder:
    """A Progress that remembers."""

    def __init__(self):
        self.updates = []

    def update(self, label, done, total, unit, note=""):
        self.updates.append((label, done, total))

    def message(self, text):
        pass


def test_known_errors_of_two_systems(tmp_path, utterances, stored):
    good = stored({"bob-2": "uh"})
    poor = stored({"ann-1": "one too three", "eve-2": ""})
    systems = [System("big", "teacher", good), System("small", "student_hard", poor)]
    report = evaluate_systems(systems, {"test": utterances}, SETTINGS, tmp_path / "report")
    found = report.sets["test"]
    kinds = ("substitutions", "deletions", "insertions", "words")
    assert [found["teacher"][kind] for kind in kinds] == [0, 0, 1, 16]
    assert [found["student_hard"][kind] for kind in kinds] == [1, 5, 0, 16]
    assert found["teacher"]["wer"] == 1 / 16
    assert [row["id"] for row in report.rows["test"]["teacher"]] == [utterance.id for utterance in utterances]
    assert found["speakers"] == 3
    assert found["seconds"] == pytest.approx(sum(utterance.duration for utterance in utterances))
    assert found["comparisons"] == []
    assert {key: report.name(key) for key in report.summary["models"]} == {"teacher": "big", "student_hard": "small"}


def test_damaged_and_unlabelled_utterances_are_left_out_for_all_and_listed(tmp_path, utterances, stored):
    utterances[1].audio.write_bytes(utterances[1].audio.read_bytes()[:5000])
    utterances[4] = dataclasses.replace(utterances[4], text=None)
    systems = [System("a", "teacher", stored()), System("b", "other", stored())]
    settings = SETTINGS.model_copy(update={"max_excluded_share": 0.5})
    report = evaluate_systems(systems, {"test": utterances}, settings, tmp_path / "report")
    reasons = {item["id"]: item["reason"] for item in report.sets["test"]["excluded"]}
    assert reasons.keys() == {"ann-2", "eve-1"}
    assert reasons["eve-1"] == "no transcript"
    assert "cut off" in reasons["ann-2"]
    for rows in report.rows["test"].values():
        assert {row["id"] for row in rows} == {"ann-1", "bob-1", "bob-2", "eve-2"}


def test_too_many_left_out_stop_the_evaluation(tmp_path, utterances, stored):
    utterances[0].audio.unlink()
    with pytest.raises(EvaluationError, match=r"1 of 6 utterances cannot be used \(ann-1: .*max_excluded_share"):
        evaluate_systems([System("a", "teacher", stored())], {"test": utterances}, SETTINGS, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_nothing_left_is_an_error_whatever_share_is_allowed(tmp_path, utterances, stored):
    without_text = [dataclasses.replace(utterance, text=None) for utterance in utterances]
    settings = SETTINGS.model_copy(update={"max_excluded_share": 1.0})
    with pytest.raises(EvaluationError, match="6 of 6 utterances"):
        evaluate_systems([System("a", "teacher", stored())], {"test": without_text}, settings, tmp_path / "report")


def test_batches_are_bounded_by_padded_seconds(tmp_path, utterances, stored):
    recognizer = stored()
    settings = SETTINGS.model_copy(update={"batch_seconds": 2.0, "rtf_utterances": 0})
    evaluate_systems([System("a", "teacher", recognizer)], {"test": utterances}, settings, tmp_path / "report")
    assert recognizer.batches == [2, 2, 2]


def test_what_a_system_wrote_before_is_not_transcribed_again(tmp_path, utterances, stored):
    settings = SETTINGS.model_copy(update={"batch_seconds": 2.0, "rtf_utterances": 0})
    first, other = stored(), stored()
    known = {SetVariant("test"): {"teacher": {"eve-2": "known", "eve-1": "known", "bob-2": "known"}}}
    systems = [System("a", "teacher", first), System("b", "other", other)]
    resumption = Resumption(known)
    report = evaluate_systems(systems, {"test": utterances}, settings, tmp_path / "report", resumption=resumption)
    assert (first.batches, other.batches) == ([2, 2], [2, 2, 2])
    wrote = {row["id"]: row["hypothesis"] for row in report.rows["test"]["teacher"]}
    # A batch that is known only in part is transcribed as a whole, so that its padding does not change.
    assert (wrote["eve-2"], wrote["eve-1"], wrote["bob-2"], wrote["ann-2"]) == ("known", "known", "", "five six")
    assert report.sets["test"]["b"]["wer"] == 0


def test_a_stop_names_the_set_and_what_was_transcribed_is_kept(tmp_path, utterances, stored):
    settings = SETTINGS.model_copy(update={"batch_seconds": 2.0, "rtf_utterances": 0})
    kept, whole = {}, {"a": {utterance.id: utterance.text for utterance in utterances}}
    resumption = Resumption({SetVariant("dev"): whole}, kept.__setitem__, lambda: "SIGTERM")
    sets = {"dev": utterances, "test": utterances}
    with pytest.raises(StoppedEarly, match=r"stopped \(SIGTERM\) after 2 of 6 utterances of test\. Run the same"):
        evaluate_systems([System("a", "other", stored())], sets, settings, tmp_path / "report", resumption=resumption)
    assert kept[SetVariant("dev")] == whole
    assert kept[SetVariant("test")]["a"].keys() == {"eve-1", "eve-2"}
    assert not (tmp_path / "report").exists()


def test_batching_does_not_change_the_result(tmp_path, utterances, stored):
    system = System("a", "teacher", stored({"ann-1": "one"}))
    scores = []
    for seconds in (0.1, 1.0, 60.0):
        settings = SETTINGS.model_copy(update={"batch_seconds": seconds})
        report = evaluate_systems([system], {"test": utterances}, settings, tmp_path / "report")
        scores.append((report.sets["test"]["teacher"], report.rows))
    assert scores[0] == scores[1] == scores[2]


def test_progress_ends_at_the_whole(tmp_path, utterances, stored):
    progress = Recorder()
    evaluate_systems(
        [System("a", "teacher", stored())], {"dev": utterances}, SETTINGS, tmp_path / "r", progress=progress
    )
    assert progress.updates[0] == ("transcribe dev", 6, 6)
    assert ("real-time factor", 2, 2) in progress.updates
    assert ("cost", 1, 1) in progress.updates


def test_a_recognizer_that_loses_a_transcript_is_found(tmp_path, utterances):
    class Forgetful:
        def transcribe(self, waveforms):
            return ["x"] * (len(waveforms) - 1)

    with pytest.raises(EvaluationError, match="forgetful: gave 5 transcripts for 6 waveforms"):
        evaluate_systems([System("forgetful", "other", Forgetful())], {"t": utterances}, SETTINGS, tmp_path / "r")


def test_what_cannot_be_compared_is_refused(tmp_path, utterances, stored):
    recognizer = stored()
    one = [System("a", "teacher", recognizer)]

    def refused(systems, sets, message):
        with pytest.raises(EvaluationError, match=message):
            evaluate_systems(systems, sets, SETTINGS, tmp_path / "report", RunFacts())

    refused([], {"test": utterances}, "no system")
    refused([*one, System("b", "teacher", recognizer)], {"test": utterances}, "'a' and 'b' both stand for 'teacher'")
    refused([System("gap_recovered", "other", recognizer)], {"test": utterances}, "uses the name")
    refused([System("teacher", "other", recognizer)], {"test": utterances}, "uses the name")
    refused([System("a/b", "other", recognizer)], {"test": utterances}, "cannot be a file name")
    assert not recognizer.batches


def test_timed_utterances_are_spread_from_short_to_long(tmp_path):
    durations = [Utterance(f"u{n}", tmp_path, float(n), "x", "s") for n in range(1, 101)]
    assert [item.duration for item in spread(durations, 4)] == [13.0, 38.0, 63.0, 88.0]
    assert spread(durations[:3], 10) == durations[:3]
    assert spread(durations, 0) == []
