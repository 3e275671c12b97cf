"""Cache keys hold the content of a model's folder: moving it repeats nothing, other weights in its place do."""

import json
import shutil

import pytest
import torch
import yaml

from asr_kd.files import sha256_of_file
from asr_kd.models.settings import WhisperSettings
from asr_kd.models.weights import WEIGHTS
from asr_kd.recipe import pseudo_label_tasks, pseudo_labels
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.teachers import RECORD, encoder_hashes, folder_sha256, source_hashes, source_in_key
from asr_kd.recipe.training_tasks import student_tasks
from asr_kd.teachers.whisper_transcriber import Transcription
from asr_kd.training.warm_start import warm_start_sha256
from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_run import RECIPE, command


def write_model(folder, weights="weights"):
    folder.mkdir()
    (folder / "model.bin").write_text(weights)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def context(tmp_path) -> RunContext:
    return RunContext(load_recipe(RECIPE, [f"work_dir={tmp_path}/run"]))


def test_the_hash_is_of_names_and_contents(tmp_path):
    first, second = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    (second / "README.md").write_text("a model card")
    assert folder_sha256(first) == folder_sha256(second)
    (second / "model.bin").write_text("weight5")
    assert folder_sha256(first) != folder_sha256(second)
    (first / "config.json").rename(first / "tokenizer.json")
    assert folder_sha256(first) != folder_sha256(write_model(tmp_path / "c"))


def test_names_stay_and_folders_are_recorded(tmp_path, context):
    for name in ("whisper:openai/whisper-base", "hf:openai/whisper-base@main", "torchaudio:X", "recipe:teacher"):
        assert source_in_key(context, name) == name
        assert source_hashes(context, [name, None]) == []
    assert not (context.work_dir / "stages" / RECORD).exists()
    source = f"whisper:{write_model(tmp_path / 'model')}"
    there = source_in_key(context, source), source_hashes(context, [source])
    assert there == ("whisper:FOLDER", [folder_sha256(tmp_path / "model")])
    shutil.rmtree(tmp_path / "model")
    assert (source_in_key(context, source), source_hashes(context, [source])) == there


def test_weights_that_a_student_began_from_are_recorded(tmp_path, context, monkeypatch):
    encoder = tmp_path / "models" / "whisper-tiny.en"
    save_encoder("whisper", encoder)
    monkeypatch.setenv("ASR_KD_MODELS", str(tmp_path / "models"))
    by_name = WhisperSettings(init="hf:openai/whisper-tiny.en", layers=(0,))
    by_folder = WhisperSettings(init=str(encoder), layers=(0,))
    there = encoder_hashes(context, by_name)
    assert there == encoder_hashes(context, by_folder) == [sha256_of_file(encoder / WEIGHTS)]
    shutil.rmtree(tmp_path / "models")
    assert encoder_hashes(context, by_name) == encoder_hashes(context, by_folder) == there
    assert encoder_hashes(context, WhisperSettings(init="hf:openai/whisper-base.en", layers=(0,))) == []


class FakeWhisper:
    def __init__(self, settings):
        self.settings, self.sha256 = settings, "a" * 64

    def transcribe(self, waveform):
        return Transcription("Yes.", -0.3, 0.1, 1.1, 0.0, "en", 1.0)


def test_pseudo_labels_of_a_moved_model_are_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_labels, "open_transcriber", FakeWhisper)

    def extract(folder):
        outcome = command(
            "extract", str(RECIPE), "--only", "labels", f"work_dir={tmp_path}/run",
            f"hypotheses.labels.source=whisper:{folder}", "hypotheses.labels.filters.max_filtered_share=1.0",
            "hypotheses.labels.filters.max_transcript_wer=null", "hypotheses.labels.evaluate=true",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        return outcome.did

    assert command("prepare", str(RECIPE), f"work_dir={tmp_path}/run").code == 0
    first = extract(write_model(tmp_path / "model"))
    assert len(first) == 3
    assert not any(line.endswith("skipped") for line in first)
    (tmp_path / "model").rename(tmp_path / "moved")
    assert all(line.endswith("skipped") for line in extract(tmp_path / "moved"))
    shutil.rmtree(tmp_path / "moved")
    assert all(line.endswith("skipped") for line in extract(tmp_path / "moved"))
    write_model(tmp_path / "moved", "other weights")
    assert not any(line.endswith("skipped") for line in extract(tmp_path / "moved"))


@pytest.mark.slow
def test_a_teacher_on_a_moved_encoder_is_not_trained_again_and_opens(tmp_path):
    pytest.importorskip("transformers")
    save_encoder("whisper", tmp_path / "whisper")
    plain = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    plain.pop("extras")
    plain["work_dir"] = str(tmp_path / "run")
    head = {"width": 16, "blocks": 1, "kernel": 3}
    training = {**plain["teachers"]["teacher"]["train"], "epochs": 1}
    plain["students"] = {"student-kd": plain["students"]["student-kd"]}

    def run(place, last):
        encoder = {"source": f"hf:{place}"}
        plain["teachers"] = {"teacher": {"encoder": encoder, "head": head, "train": training}}
        plain["sanity"] = {"max_wer": 100}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
        outcome = command("run", str(tmp_path / "recipe.yaml"), "--to", last)
        assert outcome.code == 0, outcome.err
        return outcome.did

    run(tmp_path / "whisper", "teacher")
    (tmp_path / "whisper").rename(tmp_path / "moved")
    did = run(tmp_path / "moved", "extract")
    assert next(line for line in did if "teacher" in line).endswith("skipped")
    named = json.loads((tmp_path / "run" / "teachers" / "teacher" / "model" / "model.json").read_text())
    assert named["model"]["encoder"]["source"] == f"hf:{tmp_path / 'whisper'}"


def test_a_renamed_run_keeps_the_students_that_begin_from_its_own_models(tmp_path):
    def keys(place, weights):
        (place / "students" / "warm" / "model").mkdir(parents=True, exist_ok=True)
        (place / "students" / "warm" / "model" / WEIGHTS).write_text(weights)
        train = {"epochs": 1, "init_from": str(place / "students" / "warm" / "model")}
        staged = {"model": {"size": "tiny"}, "train": {"epochs": 1}, "stages": [{"train": train}]}
        (tmp_path / "recipe.yaml").write_text(
            yaml.safe_dump({"name": "r", "work_dir": str(place), "corpus": {"kind": "an4"}, "students": {"s": staged}})
        )
        context = RunContext(load_recipe(tmp_path / "recipe.yaml", []))
        tasks = student_tasks(context, "s", context.recipe.students["s"])
        assert len(tasks) == 2
        return [task.settings for task in tasks], warm_start_sha256(context.recipe.students["s"].stages[0].train)

    first = keys(tmp_path / "a", "weights")
    assert keys(tmp_path / "b", "weights") == first
    assert keys(tmp_path / "b", "others")[1] != first[1]


def test_a_folder_before_a_revision_counts_as_a_folder(tmp_path, context):
    source = f"hf:{write_model(tmp_path / 'model')}@main"
    assert source_hashes(context, [source]) == [folder_sha256(tmp_path / "model")]


def test_pseudo_labels_are_made_on_the_gpu_of_the_process(tmp_path, monkeypatch):
    recipe = load_recipe(RECIPE, [f"work_dir={tmp_path}", "hypotheses={w: {source: 'whisper:base', language: en}}"])
    context, devices = RunContext(recipe, device=torch.device("cuda", 1)), []
    monkeypatch.setattr(pseudo_label_tasks, "utterances_to_pseudo_label", lambda context: [])
    monkeypatch.setattr(pseudo_label_tasks, "transcribe_with", lambda *given: devices.append(given[-1]))
    pseudo_label_tasks.pseudo_label_tasks(context, "w", recipe.hypotheses["w"])[0].run(tmp_path)
    assert devices == ["cuda:1"]
