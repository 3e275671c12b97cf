"""A bundle's other forms, 8-bit weights and torch.export: near or equal, refused when damaged, and its examples run."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

import asr_kd.export.export_bundle
import asr_kd.export.parity
from asr_kd.config import parse_settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import BundleError, RecipeError
from asr_kd.evaluation.cost_measures import int8_size
from asr_kd.evaluation.open_systems import open_system
from asr_kd.export.export_bundle import ExportSettings, bundle_places, compare_int8, export_bundle
from asr_kd.export.parity import best_token_losses, mixed_log_probs, stream_alignments
from asr_kd.export.readme import EXAMPLES
from asr_kd.export.sherpa_client import client_is_installed
from asr_kd.files import json_text
from asr_kd.models.layers import step_table
from asr_kd.models.settings import Context
from asr_kd.models.weights import load_model
from asr_kd.runtime.bundle import DESCRIPTION, INT8, MODEL, PT2, file_entry, read_bundle
from asr_kd.runtime.graph_backends import UnsafeArchiveError, checked_archive
from asr_kd.runtime.recognizer import open_backend, open_recognizer
from tests.helpers.exporters import exporter_that_copies
from tests.helpers.tiny_models import noise_speech, save_tiny_model, tiny_model

PROGRAM, WEIGHTS = "archive/models/model.json", "archive/data/weights/model_weights_config.json"


def test_every_form_is_described_verified_and_opens_by_its_name(forms, model_folder, waveforms):
    info = read_bundle(forms).info
    assert list(info.files.graphs) == [MODEL, INT8, PT2]
    assert info.files.int8 is not None
    assert info.files.int8.size_bytes < (forms / MODEL).stat().st_size
    texts = open_recognizer(model_folder).transcribe(waveforms)
    assert open_recognizer(forms).transcribe(waveforms) == texts
    assert open_recognizer(forms / PT2).transcribe(waveforms) == texts
    assert all(open_recognizer(forms / INT8).transcribe(waveforms))
    assert info.parity["pt2"]["transcripts_equal"] == info.parity["pt2"]["resets_equal"] == 3
    assert info.parity["pt2"]["graph_difference"] < 1e-4
    assert info.parity["int8"]["best_token_agreement"] > 0.8
    assert info.parity["int8"]["difference"] > 0
    assert info.licence == "CC-BY-4.0"
    with pytest.raises(BundleError, match=r"holds no model\.int8\.onnx"):
        read_bundle(_without(forms, "int8"), INT8)


def _without(forms, form):
    folder = forms.parent / f"without-{form}"
    shutil.copytree(forms, folder, dirs_exist_ok=True)
    _edit(folder, lambda info: info["files"].pop(form))
    return folder


def _edit(folder, change):
    info = json.loads((folder / DESCRIPTION).read_text())
    change(info)
    (folder / DESCRIPTION).write_text(json_text(info))


def test_torch_export_is_the_model_bit_for_bit(forms, model_folder, waveforms):
    backend, model = open_backend(read_bundle(forms, PT2)), load_model(model_folder).model
    features = torch.randn(2, 19, 80)
    found, after = backend.step(features, backend.initial_state(2))
    expected, state = model.stream_step(features, model.initial_state(2))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.from_numpy(after[0]), state.keys[0], atol=1e-6, rtol=0)
    assert after[-1].tolist() == [4, 4]
    one, two = backend.split(after)
    assert all(np.array_equal(a, b) for a, b in zip(backend.join([one, two]), after, strict=True))


def test_word_error_rates_of_both_precisions_are_paired_over_speakers(forms):
    found = read_bundle(forms).info.int8_wer
    assert (found["utterances"], found["speakers"], found["resampled_by"]) == (3, 3, "speakers")
    assert found["wer_fp32"] == 0.0, "its references are what it writes"
    assert found["difference"] == pytest.approx(found["wer_int8"] - found["wer_fp32"])
    assert found["low"] <= found["difference"] <= found["high"]
    wrong = round(found["wer_int8"] * found["words"])
    assert (wrong == 0) == (found["texts_equal"] == 3)


def test_the_rates_are_those_of_the_normalizer(forms, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise_speech(1.0).numpy(), 16_000)
    text = open_recognizer(forms).transcribe([noise_speech(1.0)])[0]
    pair = [Utterance("a", tmp_path / "a.wav", 1.0, text.lower(), "s")]
    assert compare_int8(forms, pair)["wer_fp32"] == 0.0
    assert compare_int8(forms, pair, normalizer="none")["wer_fp32"] == 1.0


def test_damaged_audio_is_left_out_of_the_rates_of_both_precisions(forms, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise_speech(1.0).numpy(), 16_000)
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:9_000])
    pair = [Utterance(name, tmp_path / f"{name}.wav", 1.0, "A", "s") for name in ("a", "b")]
    assert compare_int8(forms, pair)["utterances"] == 1


def test_eight_bit_weights_of_other_results_are_refused(model_folder, bundle, waveforms, tmp_path, monkeypatch):
    monkeypatch.setattr(asr_kd.export.export_bundle, "write_onnx", exporter_that_copies(bundle))
    monkeypatch.setattr(asr_kd.export.parity, "NEAR", 1.01)
    with pytest.raises(BundleError, match=r"best token is that of its model, or within 0\.5 nats"):
        export_bundle(model_folder, tmp_path / "b", waveforms[2:], settings=ExportSettings(int8=True, client=False))
    assert not (tmp_path / "b").exists()


def test_a_swap_of_tokens_costs_what_the_model_gives_them():
    exact = torch.tensor([[0.5, 0.3, 0.2], [0.34, 0.33, 0.33], [0.9, 0.05, 0.05]]).log()
    rounded = torch.tensor([[0.6, 0.2, 0.2], [0.33, 0.34, 0.33], [0.1, 0.8, 0.1]]).log()
    losses = best_token_losses(rounded, exact)
    torch.testing.assert_close(losses, torch.tensor([1.0, 0.34 / 0.33, 0.9 / 0.05]).log())


@pytest.mark.parametrize("file", [INT8, PT2])
@pytest.mark.parametrize("damage", ["bit", "truncated", "missing"])
def test_damage_is_named_whichever_form_is_opened(forms, tmp_path, file, damage):
    folder = shutil.copytree(forms, tmp_path / "copy")
    content = bytearray((folder / file).read_bytes())
    (folder / file).unlink()
    if damage != "missing":
        content[len(content) // 2] ^= 1
        (folder / file).write_bytes(content if damage == "bit" else content[:-50])
    with pytest.raises(BundleError) as caught:
        open_recognizer(folder)
    assert caught.value.where == str(folder / file)


def test_a_model_of_eight_bits_without_metadata_is_refused_in_python(forms, tmp_path):
    onnx = pytest.importorskip("onnx")
    folder = shutil.copytree(forms, tmp_path / "copy")
    proto = onnx.load(folder / INT8)
    proto.metadata_props.pop()
    (folder / INT8).write_bytes(proto.SerializeToString())
    _edit(folder, lambda info: info["files"].update(int8=file_entry(folder / INT8).model_dump()))
    with pytest.raises(BundleError, match="is missing"):
        open_recognizer(folder / INT8)


def rewritten(content, name, change, add=()):
    """The archive with one JSON member changed, or further members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        for member in source.namelist():
            data = source.read(member)
            target.writestr(member, change(data.decode()) if member == name else data)
        for member, data in add:
            target.writestr(member, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "change", "add", "message"),
    [
        (PROGRAM, lambda s: s.replace("torch.ops.aten.relu.default", "torch.load"), (), "target"),
        (PROGRAM, lambda s: s.replace("torch.ops.aten.relu.default", "torch.ops.aten.from_file.default"), (), "target"),
        (PROGRAM, lambda s: s.replace('"guards_code": []', '"guards_code": ["print(1)"]'), (), "guards_code"),
        (PROGRAM, lambda s: s.replace('"expr_str": "Symbol(', '"expr_str": "exit(), Symbol('), (), "expr_str"),
        (PROGRAM, lambda s: s.replace("builtins.tuple", "__enum__"), (), "in_spec"),
        (PROGRAM, lambda s: s.replace('"metadata": {}', '"metadata": {"torch_fn": "x"}', 1), (), "metadata"),
        (WEIGHTS, lambda s: s.replace('"use_pickle": false', '"use_pickle": true', 1), (), "use_pickle"),
        (WEIGHTS, lambda s: s.replace('"weight_0"', '"../weight_0"'), (), "path_name"),
        (WEIGHTS, lambda s: s[:-5], (), "not such an archive"),
        ("", None, [("archive/data/constants/custom_obj_0", b"x")], "custom_obj_0"),
        ("", None, [("archive/data/aotinductor/model/evil.so", b"x")], "evil"),
        ("", None, [("archive/data/sample_inputs/model.pt", b"x")], "model.pt"),
    ],
)
def test_an_archive_that_could_run_code_is_refused_even_with_the_right_checksum(
    forms, tmp_path, name, change, add, message
):
    content = (forms / PT2).read_bytes()
    if name:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            text = archive.read(name).decode()
        assert change(text) != text, "the damage does something"
    folder = shutil.copytree(forms, tmp_path / "copy")
    (folder / PT2).write_bytes(rewritten(content, name, change, add))
    _edit(folder, lambda info: info["files"].update(pt2=file_entry(folder / PT2).model_dump()))
    with pytest.raises(BundleError, match=message) as caught:
        open_recognizer(folder / PT2)
    assert caught.value.where == str(folder / PT2)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", bytes(range(256)) * 40])
def test_what_is_no_archive_is_refused(content):
    with pytest.raises(UnsafeArchiveError):
        checked_archive(content)


def test_it_holds_no_path_of_the_machine_that_made_it(forms):
    assert b".py" not in (forms / PT2).read_bytes()


def test_a_bundle_needs_a_form_and_int8_needs_onnx(forms, tmp_path):
    folder = shutil.copytree(forms, tmp_path / "copy")
    _edit(folder, lambda info: [info["files"].pop(form) for form in ("model", "int8", "pt2")])
    with pytest.raises(BundleError, match=r"there is none of model\.onnx"):
        read_bundle(folder)
    with pytest.raises(RecipeError, match="needs the format sherpa"):
        parse_settings(ExportSettings, {"formats": ["pt2"], "int8": True}, "here")


def test_several_latencies_go_into_folders_of_their_own(tmp_path):
    assert bundle_places([], tmp_path) == {tmp_path: None}
    assert bundle_places([Context(8, 64)], tmp_path) == {tmp_path: Context(8, 64)}
    assert bundle_places([Context(8, 64), Context(16, 128)], tmp_path) == {
        tmp_path / "chunk-320ms-left-2560ms": Context(8, 64),
        tmp_path / "chunk-640ms-left-5120ms": Context(16, 128),
    }


@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
@pytest.mark.parametrize("example", ["sherpa_onnx_file.py", "onnxruntime_file.py"])
def test_the_python_examples_write_what_we_write(bundle, tmp_path, example):
    waveform = noise_speech(2.7, 21)
    samples = (waveform.numpy() * 32767).round().astype(np.int16)
    soundfile.write(tmp_path / "speech.wav", samples, 16_000, subtype="PCM_16")
    script = bundle / "examples" / example
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(tmp_path / "speech.wav")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    expected = open_recognizer(bundle).transcribe([torch.from_numpy(samples.astype(np.float32) / 32768)])[0]
    assert expected
    # The client hears a chunk of silence more, in which random weights go on talking.
    assert " ".join(done.stdout.split()).startswith(expected)


@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
@pytest.mark.parametrize("example", ["sherpa_onnx_file.py", "onnxruntime_file.py"])
def test_the_python_examples_refuse_in_one_line_what_they_cannot_read(bundle, tmp_path, example):
    samples = noise_speech(1.0, 21).numpy()
    soundfile.write(tmp_path / "telephone.wav", samples, 8_000, subtype="ULAW")
    soundfile.write(tmp_path / "stereo.wav", np.stack([samples, samples], 1), 16_000, subtype="PCM_16")
    soundfile.write(tmp_path / "whole.wav", samples, 16_000, subtype="PCM_16")
    (tmp_path / "half.wav").write_bytes((tmp_path / "whole.wav").read_bytes()[:15_001])

    def refusal(*arguments: str) -> str:
        script = [sys.executable, "-P", str(bundle / "examples" / example), *arguments]
        done = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr.strip()

    assert f"python {example} recording.wav" in refusal()
    for name in ("telephone.wav", "stereo.wav", "half.wav", "missing.wav"):
        message = refusal(name)
        assert message.startswith(f"{name}: ")
        assert message.endswith("expected a complete mono WAV of 16 kHz and 16 bits")
        assert "\n" not in message


def test_the_readme_and_examples_hold_the_bundles_numbers(forms):
    text = (forms / "README.md").read_text()
    info = read_bundle(forms).info
    for wanted in ("CC-BY-4.0", "160 ms", "190 ms", "320 ms", info.files.graphs[INT8].sha256, "dev 25.00 %", "8-bit"):
        assert wanted in text
    assert "@{" not in "".join((forms / "examples" / name).read_text() for name in EXAMPLES)
    assert INT8 in (forms / "examples" / "c_plus_plus.cc").read_text()


def test_streams_in_one_batch_are_equal_in_torch_export(forms, waveforms):
    recognizer = open_recognizer(forms / PT2)
    features = [recognizer.features(waveform) for waveform in waveforms]
    single = [recognizer.log_probs([waveform]).log_probs[0] for waveform in waveforms]
    for one, mixed in zip(single, mixed_log_probs(recognizer.backend, features), strict=True):
        torch.testing.assert_close(mixed, one, atol=1e-4, rtol=0)
    assert stream_alignments(recognizer, waveforms) == stream_alignments(open_recognizer(forms), waveforms)


def test_the_cost_table_reads_the_size_of_the_exported_weights(forms, model_folder, tmp_path):
    system = replace(open_system("student-kd", "student_kd", model_folder), bundle=forms)
    assert int8_size(system) == ((forms / INT8).stat().st_size, "file model.int8.onnx")
    other = replace(open_system("x", "other", save_tiny_model(tmp_path / "x", seed=9)), bundle=forms)
    assert int8_size(other).note.startswith("estimate"), "a bundle of other weights"
    assert open_system("int8", "other", forms / INT8).parameters == system.parameters


def test_what_a_graph_puts_together_changes_nothing():
    """Three projections as one, and halves in the weights, exactly."""
    model = tiny_model()
    hidden, table = torch.randn(8, 32), step_table(8, 4, 16, torch.device("cpu"))
    caches = torch.randn(8, 2, 32), torch.randn(8, 2, 32), torch.randn(2, 32, model.settings.kernel - 1)
    mask, layer = torch.zeros(2, 1, 1, 12), model.layers[0]
    before, after = layer.step(hidden, caches, table, mask, 4)
    layer.fuse()
    found, moved = layer.step(hidden, caches, table, mask, 4)
    for one, other in zip((found, *moved), (before, *after), strict=True):
        torch.testing.assert_close(one, other)
    assert not hasattr(layer.attention, "query")
