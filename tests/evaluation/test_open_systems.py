"""A model on disk becomes a system whose cost is that of its files."""

import pytest
import torch

from asr_kd.errors import CheckpointError
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.open_systems import open_system
from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, Streaming
from asr_kd.models.weights import save_model
from asr_kd.text.vocabulary import Vocabulary

SHAPE = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "kernel": 3, "subsampling_channels": 4}


@pytest.fixture
def folders(tmp_path):
    """A full-context teacher and a chunked student, as they were born."""
    vocabulary = Vocabulary.characters(["one two three four five six seven eight nine ten"])
    torch.manual_seed(0)
    for name, streaming in (("teacher", None), ("student", Streaming(chunk_frames=4, left_context_frames=8))):
        model = Conformer(ConformerSettings(**SHAPE, streaming=streaming), len(vocabulary))
        save_model(tmp_path / name, model, vocabulary, {})
    return tmp_path


def test_model_folders_evaluate_like_any_other_system(folders, utterances):
    systems = [
        open_system("teacher", "teacher", folders / "teacher"),
        open_system("student", "student_hard", folders / "student", details={"seed": 3}),
    ]
    settings = EvaluationSettings(bootstrap_samples=200, rtf_utterances=1, memory=False)
    evaluate_systems(systems, {"dev": utterances}, settings, folders / "report")
    models = read_results(folders / "report")["models"]
    student = models["student_hard"]
    assert (student["chunk_ms"], student["left_context_ms"], student["seed"]) == (160, 320, 3)
    assert (models["teacher"]["chunk_ms"], models["teacher"]["streaming_real_time_factor"]) == (None, None)
    assert student["streaming_real_time_factor"] > 0
    assert student["size_bytes"] == (folders / "student" / "model.safetensors").stat().st_size
    assert 0 < 4 * student["parameters"] <= student["size_bytes"]
    assert (student["engine"], student["device"]) == ("torch", "cpu")
    assert student["cost"]["macs_per_second"] > 0


def test_a_folder_that_is_no_model_is_refused(folders):
    with pytest.raises(CheckpointError, match="neither a model folder nor a bundle"):
        open_system("x", "other", folders)
