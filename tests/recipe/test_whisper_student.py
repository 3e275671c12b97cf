"""A recipe whose student begins from a Whisper: trained, also in stages, evaluated, exported, verified."""

import json

import pytest
import yaml

from asr_kd.models.weights import read_tensors
from asr_kd.recipe.settings import load_recipe
from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_run import RECIPE, command, one_line

pytest.importorskip("transformers")

PARTS = ("-stage-1", "-stage-2", "")
STREAMING = {"chunk_frames": 4, "left_context_frames": 8}


@pytest.fixture
def written(tmp_path):
    """A function that writes the tiny recipe with such a student, changed."""
    save_encoder("whisper", tmp_path / "whisper")

    def write(**changed):
        plain = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        plain.pop("extras")
        plain["work_dir"] = str(tmp_path / "run")
        train = plain["students"]["student-kd"]["train"]
        init = f"hf:{tmp_path / 'whisper'}"
        model = {"init": init, "layers": [0, 1], "kernel": 5, "streaming": STREAMING}
        plain["students"]["student-kd"] = {"model": model, "train": train, **changed}
        plain["students"] = {"student-kd": plain["students"]["student-kd"]}
        plain["teachers"] = {}
        plain["export"]["int8"] = True
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(plain), encoding="utf-8")
        return path

    return write


@pytest.mark.slow
def test_the_student_is_trained_evaluated_and_exported(written, tmp_path):
    recipe = written()
    outcome = command("run", str(recipe))
    assert outcome.code == 0, outcome.err
    assert "the feature map explains" in outcome.out
    assert (tmp_path / "run" / "export" / "student-kd" / "model.int8.onnx").is_file()
    described = json.loads((tmp_path / "run" / "students" / "student-kd" / "model" / "model.json").read_text())
    assert described["model"]["sizes"]["width"] == 32
    again = command("run", str(recipe))
    assert all(line.endswith("skipped") for line in again.did)


def test_a_missing_folder_is_one_line(written):
    model = {"init": "no/such/folder", "layers": [0], "streaming": STREAMING}
    outcome = command("run", str(written(model=model)), "--to", "student")
    assert "does not exist" in one_line(outcome)


@pytest.mark.slow
def test_it_is_trained_in_stages_first_without_labels(written, tmp_path):
    """Its own full-context layers, then the output layer on frozen ones, then all of it."""
    layers = {"pairs": [[1, 1], [2, 2]], "distance": "channels", "projection": "none"}
    train = {"epochs": 2, "batch_seconds": 40, "warmup_epochs": 0.5, "precision": "fp32", "average_best": 1}
    stages = [
        {
            "train": {**train, "adopted_rate": 0.3},
            "distill": {"kd_weight": 1.0, "objectives": {"representation": layers}},
        },
        {"train": {**train, "layers_rate": 0.0}},
    ]
    recipe = written(
        stages=stages,
        train={**train, "layers_rate": 0.1},
        distill={"kd_weight": 0.3, "objectives": {"representation": layers}},
    )
    plain = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    plain["teachers"] = {"own": {"source": f"encoder:{tmp_path / 'whisper'}"}}
    recipe.write_text(yaml.safe_dump(plain), encoding="utf-8")
    outcome = command("run", str(recipe))
    assert outcome.code == 0, outcome.err
    done = [line for line in outcome.did if line.startswith("student")]
    assert done == [f"student student-kd{part}: starts" for part in ("-stage-1", "-stage-2", "")]
    students = tmp_path / "run" / "students"
    weights = [read_tensors(students / f"student-kd{part}" / "model" / "model.safetensors") for part in PARTS]
    untrained, frozen, final = (each["output.weight"] for each in weights)
    assert not untrained.equal(frozen)
    assert not frozen.equal(final)
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0] if not name.startswith("output."))
    assert not weights[1]["stem.map.weight"].equal(weights[2]["stem.map.weight"])
    curve = [json.loads(line) for line in (students / "student-kd-stage-1" / "curve.jsonl").read_text().splitlines()]
    assert curve[1]["train_loss"] < curve[0]["train_loss"]
    assert "dev_wer" not in curve[1]
    results = json.loads(next((tmp_path / "run" / "report").rglob("results.json")).read_text(encoding="utf-8"))
    assert "student-kd" in json.dumps(results)
    assert "stage-1" not in json.dumps(results["test_sets"])
    assert "without a head" in json.dumps(results["absent_systems"])
    again = command("run", str(recipe))
    assert all(line.endswith("skipped") for line in again.did)


def test_a_later_stage_has_no_start_of_its_own(written):
    changed = {"stages": [{}], "train": {"init_from": "some/where"}}
    assert "only the first may have it" in one_line(command("run", str(written(**changed)), "--to", "prepare"))


def test_the_recipe_of_the_repository_is_valid():
    recipe = load_recipe(RECIPE.parents[2] / "recipes" / "Whisper" / "streaming.yaml", [])
    assert list(recipe.trainings) == ["student-hard-stage-1", "student-hard", "student-kd", "labels-alone"]
    assert (recipe.target_layers("own"), recipe.target_layers("whisper")) == ((2, 4), ())
