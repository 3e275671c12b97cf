"""Objectives in a recipe: what the models cannot give is refused before anything runs; students without a teacher."""

import json

import pytest

from asr_kd.models.weights import load_model
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.systems import teacher_of_student
from asr_kd.targets import Store
from tests.helpers.tiny_run import RECIPE, command, one_line
from tests.recipe.test_existing_teacher import QUICK, student_of

OBJECTIVES = "students.student-kd.distill.objectives="
LAYERS = OBJECTIVES + "{representation: {pairs: [[1, 1]]}}"
ELSEWHERE = "teachers={friend: {source: 'torchaudio:WAV2VEC2_ASR_BASE_960H'}}"
SELF_TAUGHT = "{objectives: {consistency: {}, dual_mode: {}}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [OBJECTIVES + "{representation: {pairs: [[2, 1]]}}"],
            "students.student-kd.distill, representation: pairs [2, 1]: the student's layer must lie from 1 to 1",
        ),
        ([OBJECTIVES + "{representation: {pairs: [[1, 3]]}}"], "the teacher's layer must lie from 1 to 1"),
        ([LAYERS, ELSEWHERE], "representation: needs a teacher that is one model of this project's own"),
        ([OBJECTIVES + "{auxiliary: {layer: 2}}"], "auxiliary: layer 2 must lie from 1 to 1, the student's layers"),
        ([OBJECTIVES + "{auxiliary: {heads: 3}}"], "auxiliary: heads 3 must divide the student's width 16"),
        (
            [OBJECTIVES + "{dual_mode: {}}", "students.student-kd.model.streaming=null"],
            "dual_mode: needs a streaming student (model.streaming)",
        ),
        (["targets.layers=[2]"], "targets.layers [2] must lie from 1 to 1, the layers of 'teacher'"),
        (["targets.layers=[0]"], "layers are counted from 1"),
        (
            ["targets.layers=[1]", ELSEWHERE],
            "targets.layers needs teachers that are one model of this project's own, trained here or `local:`, or an "
            "`encoder:`",
        ),
        ([OBJECTIVES + "{}"], "objectives is empty"),
        (
            [
                "students.student-kd.model.layers=2",
                "students.student-kd.train.inner_layers=[1]",
                "students.student-kd.distill.inner_heads=teacher",
                OBJECTIVES + "{consistency: {}}",
            ],
            "students.student-kd.distill.inner_heads: teacher leaves the heads at train.inner_layers nothing to learn",
        ),
        ([OBJECTIVES + "{consistancy: {}}"], "did you mean 'consistency'?"),
    ],
)
def test_what_the_models_cannot_give_is_refused_before_anything_runs(tmp_path, overrides, message):
    assert message in one_line(command("run", str(RECIPE), f"work_dir={tmp_path / 'run'}", *overrides))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "layers"),
    [
        ([], ()),
        ([OBJECTIVES + "{auxiliary: {heads: 2}}"], ()),
        ([LAYERS], (1,)),
        ([LAYERS, "students.student-kd.distill.targets=dense"], ()),
        ([LAYERS, "students.student-kd.distill.kd_weight=0"], ()),
        (["targets.layers=[1]"], (1,)),
    ],
)
def test_layers_are_stored_where_a_student_needs_them(overrides, layers):
    assert load_recipe(RECIPE, overrides).target_layers("teacher") == layers


def test_a_students_weight_of_zero_lets_everything_pass():
    given = [OBJECTIVES + "{representation: {pairs: [[9, 9]]}}", "students.student-kd.distill.kd_weight=0"]
    assert not load_recipe(RECIPE, given).students["student-kd"].distill.terms


def test_a_student_that_teaches_itself_runs_without_a_teacher_and_is_compared(copy):
    words = (
        "teachers={}",
        student_of("taught", SELF_TAUGHT),
        "export.models=[taught]",
        "evaluate.memory=false",
        *QUICK,
    )
    outcome = copy.command("run", *words, "--to", "evaluate")
    assert outcome.code == 0, outcome.err
    assert not any(line.startswith(("teacher", "extract")) for line in outcome.did)
    found = json.loads(copy.file("report", "results.json").read_text(encoding="utf-8"))
    for row in found["test_sets"].values():
        (pair,) = row["comparisons"]
        assert (pair["distilled"], pair["baseline"], pair["teacher"]) == ("taught", "base", None)
    trained = load_model(copy.file("students", "taught", "model"))
    assert trained.card["parameters"] == load_model(copy.file("students", "base", "model")).card["parameters"]


def test_whom_a_self_taught_student_is_measured_against():
    student = OBJECTIVES + "{consistency: {}}"
    alone = load_recipe(RECIPE, [student])
    assert teacher_of_student(alone, alone.students["student-kd"]) == "teacher"
    two = [student, ELSEWHERE.replace("{friend", "{teacher: {source: 'recipe:a'}, a: {model: {size: 5m}}, friend")]
    several = load_recipe(RECIPE, two)
    assert teacher_of_student(several, several.students["student-kd"]) is None
    named = load_recipe(RECIPE, [*two, "students.student-kd.teacher=friend"])
    assert teacher_of_student(named, named.students["student-kd"]) == "friend"


def test_layers_are_extracted_anew_with_their_cost_and_a_student_learns_from_them(copy):
    assert not Store.open(copy.file("targets", "teacher")).info.layers
    objectives = OBJECTIVES + "{frame_kl: {}, representation: {pairs: [[1, 1]]}, auxiliary: {heads: 2}}"
    outcome = copy.command("run", objectives, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert "extract teacher: starts" in outcome.did
    assert "student student-hard: skipped" in outcome.did
    assert "of these, hidden layers take " in outcome.out
    assert Store.open(copy.file("targets", "teacher")).info.layers == {1: 16}
    models = [load_model(copy.file("students", name, "model")) for name in ("student-hard", "student-kd")]
    assert len({model.card["parameters"] for model in models}) == 1
    on_the_fly = copy.command("run", objectives, "students.student-kd.distill.targets=dense", "--to", "student")
    assert on_the_fly.code == 0, on_the_fly.err
    assert "student student-kd: starts" in on_the_fly.did
