"""A recipe whose teacher is a public encoder with a head: trained, extracted, evaluated, and what it refuses."""

import json

import pytest
import yaml

from asr_kd.recipe.settings import load_recipe
from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_run import RECIPE, command

pytest.importorskip("transformers")


@pytest.fixture
def written(tmp_path):
    """A function that writes the tiny recipe with an encoder teacher, changed."""
    save_encoder("whisper", tmp_path / "whisper")

    def write(train=None, student=None, **encoder):
        plain = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        plain.pop("extras")
        plain["work_dir"] = str(tmp_path / "run")
        plain["teachers"] = {
            "teacher": {
                "encoder": {"source": f"hf:{tmp_path / 'whisper'}", **encoder},
                "head": {"width": 16, "blocks": 1, "kernel": 3},
                "train": {**plain["teachers"]["teacher"]["train"], **(train or {})},
            }
        }
        plain["students"]["student-kd"]["distill"].update(student or {})
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(plain), encoding="utf-8")
        return path

    return write


@pytest.mark.slow
def test_the_teacher_is_trained_extracted_learned_from_and_evaluated(written, tmp_path):
    recipe = written()
    outcome = command("run", str(recipe), "--to", "evaluate")
    assert outcome.code == 0, outcome.err
    results = json.loads(next((tmp_path / "run").rglob("results.json")).read_text(encoding="utf-8"))
    assert "teacher" in json.dumps(results)
    again = command("run", str(recipe), "--to", "evaluate")
    assert all(line.endswith("skipped") for line in again.did)


def test_what_encoder_teachers_do_not_have_is_refused(written):
    for train, found in (
        ({"inner_layers": [1]}, "are of Conformers"),
        ({"augmentation": {"spec_augment": {"time_masks": 2}}}, "masks filter banks"),
    ):
        outcome = command("run", str(written(train=train)), "--to", "prepare")
        assert outcome.code == 1
        assert found in outcome.err
    outcome = command("run", str(written(layers=[2, 1])), "--to", "prepare")
    assert "rising order" in outcome.err


@pytest.mark.slow
def test_it_runs_along_with_its_student(written, tmp_path):
    """On the same augmented view: speed, noise and level."""
    recipe = written(student={"targets": "dense"})
    plain = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    student = plain["students"]["student-kd"]
    plain["students"] = {"student-kd": student}
    student["train"]["augmentation"] = {"speeds": [0.9, 1.1], "perturb": {"share": 1.0}}
    recipe.write_text(yaml.safe_dump(plain), encoding="utf-8")
    outcome = command("run", str(recipe), "--to", "student")
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "run" / "targets").exists()
    assert (tmp_path / "run" / "students" / "student-kd" / "model" / "model.safetensors").is_file()


def test_the_recipe_of_the_repository_is_valid():
    recipe = load_recipe(RECIPE.parents[2] / "recipes" / "Whisper" / "encoder.yaml", [])
    assert recipe.teachers["whisper"].model.encoder.layers == (4, 5, 6)
