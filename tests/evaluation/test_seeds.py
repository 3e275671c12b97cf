"""Several training runs of one system as one row: from files, from runs, and from a recipe."""

import json

import numpy as np
import pytest

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.comparison import Comparison, SeedRows, seed_rows
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.report import Report, read_results, write_report
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.compare_runs import compare_runs, seeds_of_runs
from asr_kd.evaluation.report.loading import open_report
from asr_kd.evaluation.report.text_renderers import markdown
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.score_files import score_files
from asr_kd.evaluation.system import System
from asr_kd.files import json_text
from asr_kd.scoring.significance import Resampling
from asr_kd.scoring.transcripts import write_transcripts
from tests.helpers.evaluations import QUICK

FEW = Resampling(400, 3)
SETTINGS = QUICK
WORDS = [10] * 40
SPEAKERS = [f"s{n % 8}" for n in range(40)]


def runs(*rates):
    """Errors of one run for each rate, the same in every utterance."""
    return {f"{rate}": [rate] * 40 for rate in rates}


def test_mean_spread_and_gap_are_of_means_over_seeds():
    errors = {
        "hard-1": [4] * 40, "hard-2": [6] * 40, "kd-1": [3] * 40, "kd-2": [4] * 40, "kd-3": [2] * 40, "big": [1] * 40,
    }  # fmt: skip
    request = SeedRows(
        {"hard": ["hard-1", "hard-2"], "kd": ["kd-1", "kd-2", "kd-3"], "big": ["big"]},
        [Comparison("kd", "hard", "big")],
    )
    found = seed_rows(request, errors, WORDS, SPEAKERS, FEW)
    kd = found["kd"]
    assert list(found) == ["hard", "kd"]
    assert found["hard"]["mean"] == 0.5
    assert "gap_recovered" not in found["hard"]
    assert kd["mean"] == pytest.approx(0.3)
    assert kd["deviation"] == pytest.approx(0.1)
    # Utterances do not differ: only the choice of runs does.
    assert (kd["low"], kd["high"]) == pytest.approx((0.2, 0.4))
    assert kd["gap_recovered"] == pytest.approx((0.5 - 0.3) / (0.5 - 0.1))
    assert kd["gap_recovered_low"] < 0.5 < kd["gap_recovered_high"]


def test_the_interval_holds_speakers_and_seeds():
    rng = np.random.default_rng(2)
    by_speaker = {speaker: rate for speaker, rate in zip(sorted(set(SPEAKERS)), rng.uniform(0, 6, 8), strict=True)}
    one = [round(by_speaker[speaker]) for speaker in SPEAKERS]
    errors = {"1": one, "2": [count + 1 for count in one], "3": [count + 2 for count in one]}
    row = seed_rows(SeedRows({"x": ["1", "2", "3"]}), errors, WORDS, SPEAKERS, FEW)["x"]
    utterances = seed_rows(SeedRows({"x": ["1", "2", "3"]}), errors, WORDS, None, FEW)["x"]
    alone = seed_rows(SeedRows({"x": ["1", "1"]}), errors, WORDS, SPEAKERS, FEW)["x"]
    wide, less, least = (item["high"] - item["low"] for item in (row, utterances, alone))
    assert wide > less
    assert wide > least


def test_one_run_of_everything_makes_no_row_and_an_unknown_row_is_refused():
    pair = Comparison("kd", "hard", "big")
    rows = {"kd": ["3"], "hard": ["4"], "big": ["1"]}
    assert seed_rows(SeedRows(rows, [pair]), runs(1, 3, 4), WORDS, None, FEW) == {}
    with pytest.raises(EvaluationError, match="needs 'big'; expected one of kd, hard"):
        seed_rows(SeedRows({"kd": ["3"], "hard": ["4"]}, [pair]), runs(3, 4), WORDS, None, FEW)


def test_runs_that_are_not_there_are_left_out():
    request = SeedRows({"kd": ["kd-1", "kd-2"], "hard": ["hard-1"], "big": ["big"]}, [Comparison("kd", "hard", "big")])
    left = request.among({"kd-1": "kd-1", "hard-1": "hard-1"})
    assert left.rows == {"kd": ["kd-1"], "hard": ["hard-1"]}
    assert left.pairs == [Comparison("kd", "hard", None)]
    assert request.among({name: name for name in ("kd-1", "kd-2", "big")}).pairs == []
    assert request.among({"kd-1": "student_kd", "big": "teacher"}).rows == {"kd": ["student_kd"], "big": ["teacher"]}


# -- from files ------------------------------------------------------------------------------------------

REFERENCES = {f"s{n % 4}-{n}": "a b c d" for n in range(12)}
WRONG = {"teacher": 0, "hard-1": 2, "hard-2": 4, "kd-1": 1, "kd-2": 2}
"""Words that a run has wrong in every utterance."""


@pytest.fixture
def files(tmp_path):
    write_transcripts(tmp_path / "ref.trn", "trn", REFERENCES)
    for run, wrong in WRONG.items():
        text = " ".join(["x"] * wrong + ["a", "b", "c", "d"][wrong:])
        write_transcripts(tmp_path / f"{run}.trn", "trn", dict.fromkeys(REFERENCES, text))
    return tmp_path


def scored(files, **options):
    names = [
        ("student-hard", "hard-1"), ("student-hard", "hard-2"), ("student-kd", "kd-1"), ("student-kd", "kd-2"),
        ("teacher", "teacher"),
    ]  # fmt: skip
    return score_files(
        files / "ref.trn", [(name, files / f"{run}.trn") for name, run in names], SETTINGS, "prefix", **options
    )


def test_files_of_one_name_are_one_row(files):
    write_report(scored(files), files / "report")
    summary = read_results(files / "report")
    found = summary["test_sets"]["ref"]
    assert {"teacher", "student-hard-1", "student-hard-2", "student-kd-1", "student-kd-2"} <= found.keys()
    (kd,) = summary["seeds"]["student-kd"]
    assert kd["runs"] == ["student-kd-1", "student-kd-2"]
    assert (kd["set"], kd["mean"], kd["rates"]) == ("ref", 0.375, [0.25, 0.5])
    assert kd["gap_recovered"] == pytest.approx((0.75 - 0.375) / 0.75)
    assert (kd["low"], kd["high"]) == (0.25, 0.5)
    assert summary["seeds"]["student-hard"][0]["mean"] == 0.75
    text = markdown(assemble(Report(summary)))
    assert "| student-kd | ref | 2 | 37.50 | 17.68 | 25.00–50.00 | [25.00, 50.00] | 50 % [" in text
    assert "Seeds are not stated" not in text


def test_a_stated_pair_of_rows_and_one_that_is_not_there(files):
    stated = scored(files, comparisons=[Comparison("student-hard", "student-kd", "teacher")])
    (row,) = stated.summary["seeds"]["student-hard"]
    assert row["gap_recovered"] == pytest.approx(-1.0)
    with pytest.raises(EvaluationError, match="needs 'nobody'"):
        scored(files, comparisons=[Comparison("student-kd", "nobody")])


# -- from runs -------------------------------------------------------------------------------------------


@pytest.fixture
def two_runs(files):
    """Reports of two runs with another seed each, and the same teacher."""
    for number in (1, 2):
        systems = [("student-hard", f"hard-{number}"), ("student-kd", f"kd-{number}"), ("teacher", "teacher")]
        named = [(name, files / f"{run}.trn") for name, run in systems]
        write_report(score_files(files / "ref.trn", named, SETTINGS, "prefix"), files / f"run{number}")
    return {f"run{number}": open_report(files / f"run{number}") for number in (1, 2)}


def test_runs_give_the_rows_that_their_files_give(two_runs, files):
    found = seeds_of_runs(two_runs, Resampling(200, 0))
    assert list(found) == ["student_hard", "student_kd"]  # the teacher is one and the same
    (kd,) = found["student_kd"]
    expected = read_of_files(files)["student-kd"][0]
    assert kd["runs"] == ["run1/student_kd", "run2/student_kd"]
    same = ("set", "mean", "deviation", "low", "high", "gap_recovered", "gap_recovered_low", "gap_recovered_high")
    assert {key: kd[key] for key in same} == {key: expected[key] for key in same}


def read_of_files(files):
    write_report(scored(files), files / "report")
    return read_results(files / "report")["seeds"]


def test_runs_that_cannot_be_pooled_are_refused(two_runs, files):
    stored = json.loads((files / "run2" / "results.json").read_text())
    stored["provenance"]["normalizer"] = "librispeech"
    (files / "run2" / "results.json").write_text(json_text(stored))
    with pytest.raises(EvaluationError, match=r"different normalizers \(run1: none, run2: librispeech\)"):
        compare_runs({**two_runs, "run2": open_report(files / "run2")}, seeds=True)
    write_transcripts(files / "ref.trn", "trn", REFERENCES | {"s0-0": "a b c e"})
    other = score_files(files / "ref.trn", [("student-kd", files / "kd-2.trn")], SETTINGS, "prefix")
    write_report(other, files / "run2")
    with pytest.raises(EvaluationError, match="ref: run1 and run2 were scored on different references"):
        compare_runs({**two_runs, "run2": open_report(files / "run2")}, seeds=True)


# -- in an evaluation ------------------------------------------------------------------------------------


def test_an_evaluation_has_the_rows_that_the_recipe_names(utterances, stored, tmp_path):
    wrong = {utterance.id: (utterance.text or "x").split(" ", 1)[-1] for utterance in utterances}
    systems = [
        System("big", "teacher", stored()),
        System("student-hard", "student_hard", stored(wrong)),
        System("student-kd", "student_kd", stored()),
        System("kd-2", "other", stored({"ann-1": "one"})),
    ]
    rows = SeedRows(
        {"big": ["big"], "student-hard": ["student-hard"], "student-kd": ["student-kd", "kd-2"]},
        [Comparison("student-kd", "student-hard", "big")],
    )
    evaluate_systems(systems, {"dev": utterances}, SETTINGS, tmp_path, RunFacts(seed_rows=rows))
    (kd,) = read_results(tmp_path)["seeds"]["student-kd"]
    assert (kd["runs"], kd["mean"]) == (["student_kd", "kd-2"], pytest.approx(1.5 / 16))
    assert kd["gap_recovered"] == pytest.approx(1 - 1.5 / 6)
