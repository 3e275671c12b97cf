"""A recipe whose student begins from a Whisper: trained, evaluated, exported and verified with the client."""

import json

import pytest
import yaml

from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_run import RECIPE, command, one_line

pytest.importorskip("transformers")

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
