"""Two processes train as one does: the same curve within rounding, one stop, one list of what was left out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr_kd.targets import TargetSettings, extract
from asr_kd.targets.importing import import_hypotheses
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.in_ranks import JOBS, NOT_FINITE, not_finite, train_all
from tests.helpers.jobs import job_on, noises, weights_of
from tests.helpers.processes import start_ranks
from tests.helpers.teachers_beside_training import infinite_gradients

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Everything that two processes have trained, in a folder with the data."""
    folder = tmp_path_factory.mktemp("ranks")
    utterances = noises(folder)
    teacher = LocalTeacher(train(job_on(utterances, settings={"epochs": 1}), folder / "teacher", Control()))
    extract(teacher, utterances[:9], TargetSettings(speeds=(0.9, 1.0, 1.1), layers=(2,)), folder / "targets")
    rows = [{"id": u.id, "nbest": [{"text": text, "score": -0.5} for text in (u.text, "BAD")]} for u in utterances[:9]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_hypotheses(folder / "rows.jsonl", utterances[:9], folder / "hypotheses", "librispeech")
    ended = [process.end() for process in start_ranks(train_all, folder)]
    assert [code for code, _, _ in ended] == [0, 0], ended
    return folder


@pytest.fixture(scope="module")
def messages(folder) -> list[dict[str, list[str]]]:
    """By process: job → its messages."""
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def curve(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]


def assert_same(run: Path, expected: Path) -> None:
    """Curves and final weights within rounding."""
    ours, theirs = curve(run), curve(expected)
    assert len(ours) == len(theirs) > 0
    for row, wanted in zip(ours, theirs, strict=True):
        assert row.keys() == wanted.keys()
        assert row["step"] == wanted["step"]
        assert row["dev_wer"] == wanted["dev_wer"]
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-5)
        assert row["dev_loss"] == pytest.approx(wanted["dev_loss"], rel=1e-5)
    weights, wanted = (load_file(place / "model" / "model.safetensors") for place in (run, expected))
    assert weights.keys() == wanted.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(
            tensor, wanted[name], atol=2e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("name", JOBS)
def test_the_curve_is_that_of_one_process(folder, messages, name):
    train(JOBS[name](folder), folder / "one" / name, Control())
    assert_same(folder / "two" / name, folder / "one" / name)
    assert not any("Error" in line for line in messages[0][name])


def test_what_cannot_be_read_is_reported_once_by_the_first_process_and_listed(folder, messages):
    lines = [line for line in messages[0]["unreadable"] if "left out cut-off" in line]
    assert len(lines) == 2
    assert messages[1]["unreadable"] == []
    rows = [json.loads(line) for line in (folder / "two" / "unreadable" / "excluded.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == ["cut-off-0", "cut-off-1"]
    for lines in (messages[0]["too much"], messages[1]["too much"]):
        assert "max_bad_share" in lines[-1]


def test_all_stop_together_and_resuming_gives_the_same_bytes(folder, messages):
    stops = [[line for line in lines["random in pieces"] if "StoppedEarly" in line] for lines in messages]
    assert stops[0] == stops[1]
    assert ["step 3;" in stops[0][0], "step 6;" in stops[0][1]] == [True, True]
    assert weights_of(folder / "two" / "random in pieces") == weights_of(folder / "two" / "random")
    assert curve(folder / "two" / "random in pieces") == curve(folder / "two" / "random")


def test_another_number_of_processes_resumes_where_the_first_stopped(folder, messages):
    assert_same(folder / "two" / "two, one, two", folder / "two" / "labels")
    assert sum("StoppedEarly" in line for line in messages[0]["two, one, two"]) == 2
    assert sum("resumes at epoch" in line for line in messages[0]["two, one, two"]) == 2


def test_processes_that_do_not_see_the_same_files_are_refused(messages):
    for lines in messages:
        assert "StoppedEarly" in lines["not shared"][0]
        assert "different steps (3, 0)" in lines["not shared"][-1]
        assert "storage that the machines share" in lines["not shared"][-1]


def test_a_step_that_one_process_finds_not_finite_is_left_out_by_all(folder, messages):
    job = not_finite(folder)
    with infinite_gradients(job.dense_teacher):
        train(job, folder / "one" / "not finite", Control())
    assert_same(folder / "two" / "not finite", folder / "one" / "not finite")
    lines = [line for line in messages[0]["not finite"] if "is not finite" in line]
    assert len(lines) == len(NOT_FINITE) * len(curve(folder / "one" / "not finite"))
    assert len(lines) < curve(folder / "one" / "not finite")[-1]["step"]
    assert lines[0].count("noise-") > 1  # both processes' utterances
    assert messages[1]["not finite"] == []


def test_collectives_of_objects(messages):
    gathered, broadcast, summed = (json.loads(line) for line in messages[1]["talk"])
    assert gathered == [[0, "ä"], [1, "ä"]]
    assert broadcast == {"from": 0}
    assert summed == [2.0, 1.0]
    assert messages[0]["talk"] == messages[1]["talk"]
