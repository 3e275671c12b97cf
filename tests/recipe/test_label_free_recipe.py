"""recipes/Whisper/label-free.yaml: a folder of recordings becomes a bundle, with a random Whisper and a real one."""

import json
import os
from pathlib import Path

import pytest

from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.errors import TargetsError
from asr_kd.models.weights import read_tensors
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.labelled_sets import label_reports
from asr_kd.recipe.settings import load_recipe
from tests.helpers.corpus_layouts import write_audio
from tests.helpers.tiny_encoders import save_encoder
from tests.helpers.tiny_run import ROOT, command, one_line
from tests.helpers.tiny_whisper import save_whisper_ct2

RECIPE = ROOT / "recipes" / "Whisper" / "label-free.yaml"
TRAIN = "epochs: 1, batch_seconds: 40, average_best: 1"
SMALL = [
    "device=cpu", "threads=1", f"students.student.train={{{TRAIN}, layers_rate: 0}}",
    "evaluate={bootstrap_samples: 200, rtf_utterances: 2, sample_utterances: 2, memory: false}",
]  # fmt: skip
STAGES = (
    f"students.student.stages=[{{teacher: own, train: {{{TRAIN}}}, distill: {{kd_weight: 1, objectives: "
    "{representation: {pairs: PAIRS, distance: channels, projection: none}}}}]"
)


def from_layers(encoder: Path) -> list[str]:
    """A student that begins from a tiny Whisper of two layers, and its own teacher."""
    return [
        f"students.student.model={{init: 'hf:{encoder}', layers: [0, 1], kernel: 5, dropout: 0, "
        "head: {blocks: 1, width: 8, kernel: 3}, streaming: {chunk_frames: 4, left_context_frames: 8}}",
        f"teachers.own.source=encoder:{encoder}",
        STAGES.replace("PAIRS", "[[1, 1], [2, 2]]"),
    ]


NO_FILTERS = (
    "hypotheses.whisper.filters={min_avg_logprob: null, max_no_speech_prob: null, max_compression_ratio: null, "
    "max_repeats: null, max_characters_per_second: null, max_filtered_share: 0.99}"
)


@pytest.fixture
def whisper(tmp_path) -> Path:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("transformers")
    return save_whisper_ct2(tmp_path / "whisper")


def recordings(folder: Path) -> Path:
    for number in range(10):
        path = folder / f"speaker{number % 5}" / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_audio(path, 8.0)
    return folder


@pytest.mark.slow
def test_a_folder_without_any_transcript_becomes_a_student_and_a_report(whisper, tmp_path):
    run = [
        "run",
        "--to",
        "evaluate",
        str(RECIPE),
        f"work_dir={tmp_path}/run",
        f"corpus.train={recordings(tmp_path / 'recordings')}",
    ]
    run += ["hypotheses.whisper.language=null", f"hypotheses.whisper.source=whisper:{whisper}", NO_FILTERS, *SMALL]
    save_encoder("whisper", tmp_path / "encoder")
    run += from_layers(tmp_path / "encoder")
    run += [f"store_url=file://{tmp_path}/elsewhere"]
    outcome = command(*run)
    assert outcome.code == 0, outcome.err
    sets = json.loads((tmp_path / "run" / "manifests" / "corpus.json").read_text())
    assert (sets["train"]["speakers"], sets["sets"]["dev"]["speakers"]) == (4, 1)
    results = json.loads((tmp_path / "run" / "report" / "results.json").read_text())
    assert results["pseudo_labels"]["whisper"]["references_of"] == ["dev"]
    assert results["pseudo_labels"]["whisper"]["steps"][0]["kept"] == 10
    page = (tmp_path / "run" / "report" / "results.md").read_text()
    assert "dev has no transcripts" in page
    assert "alphabet and length for CTC" in page
    assert list((tmp_path / "elsewhere" / "transcripts" / "whisper" / "1").glob("*.jsonl"))
    layers = read_tensors(tmp_path / "run" / "students" / "student-stage-1" / "model" / "model.safetensors")
    final = read_tensors(tmp_path / "run" / "students" / "student" / "model" / "model.safetensors")
    kept = [name for name in layers if name.startswith(("layers.0.", "layers.1.", "stem."))]  # below the head
    assert kept
    assert all(layers[name].equal(final[name]) for name in kept)  # matched without text, then kept
    curve = (tmp_path / "run" / "students" / "student-stage-1" / "curve.jsonl").read_text()
    assert "dev_wer" not in curve
    again = command(*run)
    assert all(line.endswith("skipped") for line in again.did), again.out


@pytest.mark.corpora
@pytest.mark.slow
def test_with_the_real_whisper_and_a_transcribed_test_set(tmp_path, monkeypatch):
    pytest.importorskip("faster_whisper")
    models, corpora = (os.environ.get(name) for name in ("ASR_KD_MODELS", "ASR_KD_CORPORA"))
    chapters = sorted(Path(corpora or "").glob("LibriSpeech/dev-clean/*/*")) if corpora else []
    if not models or not (Path(models) / "whisper-tiny.en-ct2").is_dir() or len(chapters) < 4:
        pytest.skip("needs Whisper's weights (ASR_KD_MODELS) and real speech (ASR_KD_CORPORA)")
    import soundfile

    folder, test = tmp_path / "recordings", []
    for chapter in chapters[:4]:
        rows = [row.split(" ", 1) for row in next(chapter.glob("*.trans.txt")).read_text().splitlines()]
        rows = sorted(rows, key=lambda row: len(row[1]))[: 3 if chapter is chapters[3] else 2]  # the shortest
        for name, text in rows:
            path = folder / chapter.parent.name / f"{name}.flac"
            if chapter is chapters[3]:
                path = chapter / path.name
                test.append(Utterance(name, path, soundfile.info(path).duration, text, chapter.parent.name))
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(chapter / path.name)
    write_manifest(tmp_path / "test.jsonl", test)
    run = ["run", "--to", "evaluate", str(RECIPE), f"work_dir={tmp_path}/run", f"corpus.train={folder}"]
    run += [f"corpus.test={{real: {tmp_path}/test.jsonl}}", "hypotheses.whisper.source=whisper:openai/whisper-tiny.en"]
    outcome = command(*run, "hypotheses.whisper.beam=1", *SMALL, STAGES.replace("PAIRS", "[[2, 2], [4, 4]]"))
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "report" / "results.json").read_text())
    assert results["test_sets"]["real"]["teacher"]["wer"] < 0.3
    assert "teacher" not in results["test_sets"]["dev"]
    assert 8e6 < results["models"]["student"]["cost"]["size_bytes"]["int8"] < 10e6


def test_a_folder_without_dev_needs_pseudo_labels(tmp_path):
    text = RECIPE.read_text(encoding="utf-8")
    bare = tmp_path / "bare.yaml"
    bare.write_text(text[: text.index("hypotheses:")] + "students: {student: {model: {size: tiny}}}\n")
    assert "nothing under hypotheses transcribes" in one_line(command("run", str(bare), "--to", "prepare"))


def test_the_demo_trains_on_pseudo_labels_alone():
    recipe = load_recipe(RECIPE.with_name("demo.yaml"), [])
    (student,) = recipe.students.values()
    assert not student.distill.needs_references
    assert recipe.hypotheses[student.hypotheses].transcript_share == 0


@pytest.mark.parametrize("text", ["", "[]", '{"steps": []}'])
def test_a_damaged_file_of_the_filters_is_one_message(tmp_path, text):
    context = RunContext(load_recipe(Path("Whisper/label-free"), [f"work_dir={tmp_path}"]))
    name = next(iter(context.recipe.hypotheses))
    folder = context.hypotheses_folder(name)
    folder.mkdir(parents=True)
    (folder / "filters.json").write_text(text)
    with pytest.raises(TargetsError, match=r"filters.json: cannot be read .* Make these labels again"):
        label_reports(context)
