"""One exported bundle for all tests of a session; whoever damages it takes a copy."""

import json
import shutil
from pathlib import Path

import pytest
import soundfile

from asr_kd.corpora.manifest import Utterance
from asr_kd.export.export_bundle import ExportSettings, Origin, export_bundle
from asr_kd.export.readme import write_readme
from asr_kd.files import json_text
from asr_kd.runtime.bundle import DESCRIPTION, INT8, PT2, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.tiny_models import noise_speech, save_tiny_model


@pytest.fixture(scope="session")
def waveforms():
    return [noise_speech(seconds, seed) for seed, seconds in enumerate([1.3, 2.0, 0.5])]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("students") / "student-kd")


@pytest.fixture(scope="session")
def held_out(tmp_path_factory, waveforms, model_folder) -> list[Utterance]:
    """The same audio with what the model writes as its reference, all of one speaker each."""
    folder, recognizer = tmp_path_factory.mktemp("speech"), open_recognizer(model_folder)
    found = []
    for index, waveform in enumerate(waveforms):
        path = folder / f"{index}.wav"
        soundfile.write(path, waveform.numpy(), 16_000, subtype="FLOAT")
        text = recognizer.transcribe([waveform])[0]
        found.append(Utterance(f"u{index}", path, len(waveform) / 16_000, text, f"speaker-{index}"))
    return found


@pytest.fixture(scope="session")
def forms(tmp_path_factory, model_folder, waveforms, held_out) -> Path:
    """A bundle of every form."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("forms") / "student-kd"
    settings = ExportSettings(formats=("sherpa", "pt2"), int8=True, licence="CC-BY-4.0")
    origin = Origin(recipe="tests", wer={"dev": 0.25}, held_out=held_out)
    export_bundle(model_folder, folder, waveforms, origin=origin, settings=settings)
    return folder


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, forms) -> Path:
    """The same with model.onnx alone, as an export without further settings writes it."""
    folder = Path(shutil.copytree(forms, tmp_path_factory.mktemp("export") / "student-kd"))
    description = json.loads((folder / DESCRIPTION).read_text())
    for form, name in {"int8": INT8, "pt2": PT2}.items():
        (folder / name).unlink()
        del description["files"][form]
    (folder / DESCRIPTION).write_text(json_text(description | {"int8_wer": {}}))
    write_readme(folder, read_bundle(folder).info, None)
    return folder


@pytest.fixture
def damaged(bundle, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "student-kd"))
