"""A store with variants of perturbed audio, and a student of it, by the command line."""

from pathlib import Path

import pytest

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.pipeline import tasks_of
from asr_kd.recipe.settings import Recipe
from asr_kd.targets.store_index import StoreInfo
from tests.helpers.tiny_run import one_line

NOISY = "targets.perturbed={noisy: {snr_db: [5, 10]}}"
HEARS = "students.student-kd.train.augmentation={augmented_copies: [noisy]}"


def test_students_train_on_the_sound_that_was_labelled(copy):
    outcome = copy.command("extract", NOISY, HEARS)
    assert outcome.code == 0, outcome.err
    info = StoreInfo.read(copy.file("targets", "teacher"))
    assert info.variants == ("speed-1.0", "speed-1.0-noisy")
    assert info.perturbed["noisy"]["snr_db"] == [5.0, 10.0]
    trained = copy.command("distill", NOISY, HEARS)
    assert trained.code == 0, trained.err
    assert trained.did == ["student student-hard: skipped", "student student-kd: starts"]
    other = NOISY.replace("[5, 10]", "[0, 10]")
    line = one_line(copy.command("distill", other, HEARS, "--only", "student-kd"))
    assert "have other settings than targets.perturbed.noisy" in line
    assert "Run the extract stage first" in line


def recipe(perturbed: dict, copies: list[str]) -> Recipe:
    student = {"model": {"size": "tiny"}, "train": {"augmentation": {"augmented_copies": copies}}}
    raw = {
        "name": "perturbed",
        "work_dir": "exp/perturbed",
        "corpus": {"kind": "an4"},
        "targets": {"perturbed": perturbed},
        "students": {"student-hard": student},
    }
    return parse_settings(Recipe, raw, Path("perturbed.yaml"))


def test_a_version_that_nobody_described_is_refused():
    with pytest.raises(RecipeError, match=r"augmented_copies names .far.; targets\.perturbed has noisy"):
        recipe({"noisy": {}}, ["far"])


def test_only_who_hears_a_version_depends_on_what_it_is():
    def settings(perturbed: dict, copies: list[str]) -> dict:
        tasks = tasks_of(RunContext(recipe(perturbed, copies)))
        return next(task.settings for task in tasks if task.name == "student-hard")

    assert settings({}, []) == settings({"noisy": {}}, [])
    assert settings({"noisy": {}}, ["noisy"]) != settings({"noisy": {"gain_db": 1}}, ["noisy"])
