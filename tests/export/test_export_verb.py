"""`asr-kd export-model FOLDER`: what lies beside the model, several latencies, refusals. No graph is made here."""

from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

import asr_kd.recipe.export_model
from asr_kd.cli import app
from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.errors import BundleError, CheckpointError
from asr_kd.export.export_bundle import ExportSettings
from asr_kd.models.settings import Context
from asr_kd.recipe.export_model import contexts_of, export_model
from tests.helpers.tiny_models import noise_speech, save_tiny_model


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with a student, a training set and a held-out one."""
    save_tiny_model(tmp_path / "run" / "students" / "student-kd" / "model")
    for name in ("train", "dev"):
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, noise_speech(1.0).numpy(), 16_000)
        (tmp_path / "run" / "manifests").mkdir(exist_ok=True)
        write_manifest(tmp_path / "run/manifests" / f"{name}.jsonl", [Utterance(f"{name}-1", path, 1.0, "A", "s")])
    return tmp_path / "run"


@pytest.fixture
def exported(monkeypatch) -> list:
    calls = []

    def remember(folder, place, waveforms, **options):
        calls.append((folder, place, [u.id for u in options["origin"].held_out], options["settings"].context))

    monkeypatch.setattr(asr_kd.recipe.export_model, "export_bundle", remember)
    monkeypatch.setattr(asr_kd.recipe.export_model, "report_bundle", lambda *arguments: None)
    return calls


def test_a_student_of_a_run_is_verified_on_the_runs_held_out_sets(run, exported):
    model = (run / "students" / "student-kd" / "model").resolve()
    export_model(run / "students" / "student-kd", None, ExportSettings())
    assert exported == [(model, run.resolve() / "export" / "student-kd", ["dev-1"], None)]


def test_each_latency_gets_a_folder(run, exported, tmp_path):
    contexts = contexts_of(run / "students" / "student-kd", [4, 8], [])
    assert contexts == [Context(4, 8), Context(8, 8)], "what is not said is the model's own"
    assert contexts_of(run / "students" / "student-kd", [4, 8], [16]) == [Context(4, 16), Context(8, 16)]
    assert contexts_of(run / "students" / "student-kd", [], [], [2]) == [Context(4, 8, 2)]
    export_model(run / "students/student-kd/model", tmp_path / "out", ExportSettings(), contexts)
    assert [(place.name, context) for _, place, _, context in exported] == [
        ("chunk-160ms-left-320ms", Context(4, 8)),
        ("chunk-320ms-left-320ms", Context(8, 8)),
    ]


def test_damaged_speech_is_left_out_and_speech_that_is_all_damaged_refused(run, exported, tmp_path, monkeypatch):
    verified = []

    def remember(folder, place, waveforms, **options):
        verified.append([len(waveform) for waveform in waveforms])

    monkeypatch.setattr(asr_kd.recipe.export_model, "export_bundle", remember)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "dev.wav").read_bytes()[:9_000])
    cut = Utterance("dev-2", tmp_path / "cut.wav", 1.0, "A", "s")
    good = Utterance("dev-1", tmp_path / "dev.wav", 1.0, "A", "s")
    write_manifest(run / "manifests" / "dev.jsonl", [good, cut])
    export_model(run / "students" / "student-kd", None, ExportSettings())
    assert verified == [[16_000]]
    write_manifest(run / "manifests" / "dev.jsonl", [cut])
    with pytest.raises(BundleError, match="can be read"):
        export_model(run / "students" / "student-kd", None, ExportSettings())


def test_a_model_outside_a_run_needs_a_place_and_speech(exported, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    with pytest.raises(BundleError, match="--out"):
        export_model(folder, None, ExportSettings())
    with pytest.raises(BundleError, match="--speech"):
        export_model(folder, tmp_path / "out", ExportSettings())
    with pytest.raises(CheckpointError, match="none: does not exist"):
        export_model(tmp_path / "none", None, ExportSettings())
    with pytest.raises(CheckpointError, match="is not a model folder"):
        export_model(Path(__file__).parent, tmp_path / "out", ExportSettings())
    assert exported == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "--chunk", "50"], "multiples of 40 ms"),
        (["model", "--chunk", "320", "--left", "320", "--left", "640"], "--left once"),
    ],
)
def test_odd_chunks_are_refused(arguments, message):
    result = CliRunner().invoke(app, ["export-model", *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())


def test_a_form_that_is_not_known_is_refused(run):
    words = ["export-model", str(run / "students/student-kd/model"), "--format"]
    result = CliRunner().invoke(app, [*words, "sherpa,onnx"])
    assert result.exit_code == 2
    assert "for --format: 'onnx'; expected sherpa, pt2, web" in " ".join(result.output.replace("│", " ").split())
    assert "needs the format sherpa" in str(CliRunner().invoke(app, [*words, "pt2", "--int8"]).exception)
