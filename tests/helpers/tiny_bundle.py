"""A tiny model and its bundle in every form, exported once in a session: tracing a graph takes seconds."""

from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.export.export_bundle import ExportSettings, Origin, export_bundle
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.made_once import made_once
from tests.helpers.tiny_models import noise_speech, save_tiny_model


class TinyBundle(NamedTuple):
    """Folders that tests copy before they change them."""

    model: Path
    forms: Path  # a bundle with model.onnx, model.int8.onnx and model.pt2


def bundle_waveforms() -> list[Tensor]:
    """Audio on which the bundle is verified."""
    return [noise_speech(seconds, seed) for seed, seconds in enumerate([1.3, 2.0, 0.5])]


def tiny_bundle(factory: pytest.TempPathFactory) -> TinyBundle:
    """The model of `save_tiny_model` and its bundle; skips the test where the extra is not installed."""
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    folder = made_once(factory, "tiny-bundle", _export)
    return TinyBundle(*_folders(folder))


def _folders(folder: Path) -> tuple[Path, Path]:
    return folder / "students" / "student-kd", folder / "forms" / "student-kd"


def _export(folder: Path) -> None:
    model, forms = _folders(folder)
    recognizer = open_recognizer(save_tiny_model(model))
    held_out, waveforms = [], bundle_waveforms()
    for index, waveform in enumerate(waveforms):
        path = folder / f"{index}.wav"
        soundfile.write(path, waveform.numpy(), 16_000, subtype="FLOAT")
        text = recognizer.transcribe([waveform])[0]
        held_out.append(Utterance(f"u{index}", path, len(waveform) / 16_000, text, f"speaker-{index}"))
    forms.parent.mkdir()
    settings = ExportSettings(formats=("sherpa", "pt2"), int8=True, licence="CC-BY-4.0")
    export_bundle(
        model, forms, waveforms, origin=Origin(recipe="tests", wer={"dev": 0.25}, held_out=held_out), settings=settings
    )
