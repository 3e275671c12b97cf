"""A teacher of folds, by the command line: trained, labelled from, scored as one, resumed, shared out and refused."""

import json
import shutil
from pathlib import Path

import pytest

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError
from asr_kd.models.weights import load_model
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.pipeline import tasks_of
from asr_kd.recipe.settings import Recipe
from asr_kd.targets.store_index import StoreInfo
from tests.helpers.tiny_run import Run, one_line

FOLDS = "teachers.teacher.folds=2"
TASKS = ["teacher teacher-fold-1", "teacher teacher-fold-2", "teacher", "extract teacher"]


@pytest.fixture(scope="module")
def labelled(finished, tmp_path_factory):
    """The tiny recipe with a teacher of two folds, up to its store, and what was said; not to be changed."""
    folder = tmp_path_factory.mktemp("folds")
    run = Run(Path(shutil.copytree(finished.work_dir, folder / "run")), finished.corpus_root)
    outcome = run.command("run", FOLDS, "--to", "extract")
    assert outcome.code == 0, outcome.err
    return run, outcome


@pytest.fixture
def of_folds(labelled, tmp_path):
    """A copy of that run, to be changed."""
    run, outcome = labelled
    return Run(Path(shutil.copytree(run.work_dir, tmp_path / "run")), run.corpus_root), outcome


def identity(run) -> dict:
    return json.loads(run.file("teachers", "teacher", "teacher.json").read_text(encoding="utf-8"))


def test_the_folds_train_label_and_are_scored_as_one_teacher(of_folds):
    run, outcome = of_folds
    assert outcome.did[1:] == [f"{task}: starts" for task in TASKS]
    models = [load_model(run.file("teachers", f"teacher-fold-{number}", "model")) for number in (1, 2)]
    heard = [model.card["training_utterances"] for model in models]
    assert sum(heard) == 40, "each leaves out what the other hears"
    assert [model.card["left_out_fold"] for model in models] == [[1, 2], [2, 2]]
    info = StoreInfo.read(run.file("targets", "teacher"))
    assert info.teacher.folds == tuple(model.sha256 for model in models)
    assert info.teacher.sha256 == identity(run)["sha256"]
    done = run.command("evaluate", FOLDS, "evaluate.rtf_utterances=1")  # with the students of the first run
    assert done.code == 0, done.err
    results = json.loads(run.file("report", "results.json").read_text(encoding="utf-8"))
    assert results["models"]["teacher"]["folds"] == 2
    assert not results["models"]["teacher"]["external"]
    assert results["models"]["teacher"]["sha256"] == identity(run)["sha256"]
    assert "was not trained by this run" not in run.file("report", "results.md").read_text(encoding="utf-8")


def test_a_fold_that_is_gone_is_trained_again_and_nothing_else(of_folds):
    run, _ = of_folds
    before = identity(run)
    shutil.rmtree(run.file("teachers", "teacher-fold-2"))
    again = run.command("run", FOLDS, "--to", "extract")
    assert again.did[1:] == [
        "teacher teacher-fold-1: skipped",
        "teacher teacher-fold-2: starts",
        "teacher: skipped",
        "extract teacher: skipped",
    ]
    assert identity(run) == before
    other = run.command("train", FOLDS, "teachers.teacher.seed=5", "--only", "teacher")
    assert other.did == [f"{task}: starts" for task in TASKS[:3]]
    assert identity(run)["sha256"] != before["sha256"]


def test_shares_label_their_part_of_the_store(of_folds):
    run, _ = of_folds
    before = StoreInfo.read(run.file("targets", "teacher")).teacher
    words = (FOLDS, "targets.shard_seconds=30")
    first = run.command("extract", *words, "--share", "1/2")
    assert first.code == 0, first.err
    assert "share 1/2" in first.out
    done = run.command("extract", *words)
    assert done.code == 0, done.err
    info = StoreInfo.read(run.file("targets", "teacher"))
    assert info.complete
    assert info.teacher == before


def test_more_folds_than_speakers_are_refused_before_anything_is_trained(copy):
    line = one_line(copy.command("run", "teachers.teacher.folds=4"))
    assert "3 training speakers cannot be cut into 4 folds" in line
    assert not copy.file("teachers", "teacher-fold-1", "model").exists()


def raw(**teachers: dict) -> dict:
    model = {"model": {"size": "tiny"}}
    return {
        "name": "folds",
        "work_dir": "exp/folds",
        "corpus": {"kind": "an4"},
        "teachers": {"teacher": {**model, "folds": 3}, **teachers},
        "students": {"student-kd": {**model, "teacher": "teacher", "distill": {}}},
    }


def parsed(data: dict) -> Recipe:
    return parse_settings(Recipe, data, Path("folds.yaml"))


def test_the_naive_teacher_stands_beside_it_and_members_can_be_named():
    others = {"naive": {"model": {"size": "tiny"}}, "two": {"source": [{"source": "recipe:teacher-fold-1"}]}}
    tasks = [task.label for task in tasks_of(RunContext(parsed(raw(**others))))]
    folds = [f"teacher teacher-fold-{number}" for number in (1, 2, 3)]
    assert tasks[1:7] == [*folds, "teacher", "teacher naive", "teacher two"]
    with pytest.raises(RecipeError, match="'recipe:teacher'; teachers that this recipe trains: teacher-fold-1"):
        parsed(raw(both={"source": [{"source": "recipe:teacher"}]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"students": {"teacher-fold-2": {"model": {"size": "tiny"}}}},
            "'teacher-fold-2' is the name of a student and of a fold's teacher",
        ),
        ({"targets": {"layers": [1]}}, "trained separately are not comparable"),
        ({"export": {"models": ["teacher"]}}, "does not train as one model"),
    ],
)
def test_what_several_teachers_cannot_be_or_do(change, message):
    data = raw()
    for key, value in change.items():
        data[key] = {**data.get(key, {}), **value}
    with pytest.raises(RecipeError, match=message):
        parsed(data)


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"targets": "dense"}, "dense needs a teacher"),
        ({"objectives": {"representation": {"pairs": [[1, 1]]}}}, "separately"),
    ],
)
def test_objectives_that_need_one_model_are_refused(distill, message):
    data = raw()
    data["students"]["student-kd"]["distill"] = distill
    with pytest.raises(RecipeError, match=message):
        parsed(data)
