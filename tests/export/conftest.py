"""One exported bundle for all tests of a session; whoever damages it takes a copy."""

import shutil
from pathlib import Path

import pytest
from tiny_models import noise_speech, save_tiny_model

from asr_kd.export.bundle import export_bundle


@pytest.fixture(scope="session")
def waveforms():
    return [noise_speech(seconds, seed) for seed, seconds in enumerate([1.3, 2.0, 0.5])]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("students") / "student-kd")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, model_folder, waveforms) -> Path:
    """Verified with the real client while it was written."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("export") / "student-kd"
    export_bundle(model_folder, folder, waveforms, recipe="tests", wer={"dev": 0.25})
    return folder


@pytest.fixture
def damaged(bundle, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "student-kd"))
