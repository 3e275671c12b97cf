"""`asr-kd pseudo-label` end to end, with a stand-in for Whisper; the real model where it is at hand."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from asr_kd.corpora.manifest import Utterance, read_manifest, write_manifest
from asr_kd.errors import AsrKdError, StoppedEarly, TargetsError
from asr_kd.progress import SILENT
from asr_kd.recipe import pseudo_labels
from asr_kd.recipe.context import Stop
from asr_kd.recipe.pseudo_labels import FILTERS_FILE, pseudo_label
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.pseudo_label_filters import LabelFilters
from asr_kd.targets.pseudo_labelling import PseudoLabelSettings
from asr_kd.targets.settings import ShardSettings
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, Transcription
from tests.helpers.corpus_layouts import write_audio
from tests.helpers.tiny_run import RECIPE, command

SETTINGS = PseudoLabelSettings(source="whisper:base", filters=LabelFilters(max_characters_per_second=100.0))


class FakeWhisper:
    """Writes the same for every utterance, a hallucination for the third."""

    def __init__(self, settings: TranscriberSettings) -> None:
        self.settings, self.sha256, self.calls = settings, settings.source[0] * 64, 0

    def transcribe(self, waveform) -> Transcription:
        self.calls += 1
        hallucinated = self.calls == 3
        text = "Thank you. " * 20 if hallucinated else "Enter 42."
        return Transcription(text, -0.3, 0.1, 9.0 if hallucinated else 1.1, 0.0, "en", 1.0)


@pytest.fixture
def whisper(monkeypatch) -> list[FakeWhisper]:
    opened: list[FakeWhisper] = []

    def open_fake(settings):
        opened.append(FakeWhisper(settings))
        return opened[-1]

    monkeypatch.setattr(pseudo_labels, "open_transcriber", open_fake)
    return opened


@pytest.fixture
def manifest(tmp_path) -> Path:
    utterances = []
    for index in range(5):
        path = tmp_path / f"u{index}.wav"
        write_audio(path, 2.0)
        utterances.append(Utterance(f"u{index}", path, 2.0, "ENTER FORTY TWO", "someone"))
    write_manifest(tmp_path / "train.jsonl", utterances)
    return tmp_path / "train.jsonl"


def test_labels_are_stored_and_the_yield_of_every_filter_is_reported(manifest, whisper, tmp_path):
    lines = pseudo_label(manifest, SETTINGS, tmp_path / "labels", SILENT)
    store = HypothesisStore.open(tmp_path / "labels", "librispeech")
    assert [item.text for item in store["u0"]] == ["ENTER FORTY TWO"]
    assert "u2" not in store
    report = json.loads((tmp_path / "labels" / FILTERS_FILE).read_text())
    assert report["removed"] == {"u2": "max_compression_ratio"}
    assert report["steps"][0]["wer"] > 1.0
    assert report["steps"][-1]["wer"] == 0.0
    assert any("max_compression_ratio" in line for line in lines)


def test_another_threshold_transcribes_nothing_again(manifest, whisper, tmp_path):
    pseudo_label(manifest, SETTINGS, tmp_path / "labels", SILENT)
    loose = LabelFilters(max_compression_ratio=None, max_repeats=None, max_characters_per_second=None)
    pseudo_label(manifest, SETTINGS.model_copy(update={"filters": loose}), tmp_path / "labels", SILENT)
    assert "u2" in HypothesisStore.open(tmp_path / "labels")
    assert [model.calls for model in whisper] == [5, 0]


def test_batches_of_similar_lengths_give_rows_in_the_order_of_ids(manifest, whisper, tmp_path, monkeypatch):
    sizes = []

    def transcribe_batch(self, waveforms):
        sizes.append([len(waveform) for waveform in waveforms])
        return [self.transcribe(waveform) for waveform in waveforms]

    monkeypatch.setattr(FakeWhisper, "transcribe_batch", transcribe_batch, raising=False)
    utterances = read_manifest(manifest)
    write_audio(utterances[1].audio, 3.0)
    (tmp_path / "u3.wav").write_bytes(b"no audio")
    write_manifest(manifest, [replace(u, duration=3.0) if u.id == "u1" else u for u in utterances])
    settings = SETTINGS.model_copy(update={"batch": 2})
    pseudo_labels.transcribe_with(settings, read_manifest(manifest), tmp_path / "raw", SILENT)
    assert sizes == [[32_000, 32_000]]  # u0 and u2; u3 cannot be read, so u4 is alone, as u1 is


def test_a_file_that_asr_kd_did_not_write_is_kept(manifest, whisper, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / FILTERS_FILE).write_text("mine")
    with pytest.raises(AsrKdError, match="did not write it"):
        pseudo_label(manifest, SETTINGS, tmp_path / "labels", SILENT)
    assert (tmp_path / "labels" / FILTERS_FILE).read_text() == "mine"


def test_other_decoding_settings_are_refused(manifest, whisper, tmp_path):
    pseudo_label(manifest, SETTINGS, tmp_path / "labels", SILENT)
    with pytest.raises(TargetsError, match="differ in settings"):
        pseudo_label(manifest, SETTINGS.model_copy(update={"beam": 1}), tmp_path / "labels", SILENT)


def test_a_stop_keeps_finished_shards_and_the_same_call_resumes(manifest, whisper, tmp_path, monkeypatch):
    monkeypatch.setattr("asr_kd.targets.whisper_transcripts.SHARDS", ShardSettings(shard_seconds=2.0))
    signal = Stop("SIGTERM", urgent=True)
    with pytest.raises(StoppedEarly):
        pseudo_label(
            manifest,
            SETTINGS,
            tmp_path / "labels",
            SILENT,
            should_stop=lambda: signal if whisper and whisper[0].calls >= 2 else None,
        )
    pseudo_label(manifest, SETTINGS, tmp_path / "labels", SILENT)
    assert [model.calls for model in whisper] == [2, 3]


def test_a_time_limit_shorter_than_a_shard_still_finishes_one_in_each_call(manifest, whisper, tmp_path, monkeypatch):
    monkeypatch.setattr("asr_kd.targets.whisper_transcripts.SHARDS", ShardSettings(shard_seconds=4.0))
    settings = SETTINGS.model_copy(update={"agree_with": "whisper:tiny"})
    limit = Stop("time", urgent=False)
    for _ in range(5):  # three shards of each model; the last call finishes the sixth, and the labels
        with pytest.raises(StoppedEarly):
            pseudo_label(
                manifest, settings, tmp_path / "labels", SILENT, should_stop=lambda: Stop("time", urgent=False)
            )
    pseudo_label(manifest, settings, tmp_path / "labels", SILENT, should_stop=lambda: limit)
    assert sum(model.calls for model in whisper) == 10


def test_two_models_are_compared(manifest, whisper, tmp_path):
    filters = LabelFilters(max_disagreement=0.0, max_characters_per_second=None)
    settings = SETTINGS.model_copy(update={"agree_with": "whisper:tiny", "filters": filters})
    pseudo_label(manifest, settings, tmp_path / "labels", SILENT)
    assert [model.settings.source for model in whisper] == ["base", "tiny"]
    assert len(HypothesisStore.open(tmp_path / "labels")) == 4


def test_two_decodings_of_one_model_are_compared(manifest, whisper, tmp_path):
    settings = SETTINGS.model_copy(update={"agree_with": SETTINGS.source, "agree_beam": 1})
    pseudo_label(manifest, settings, tmp_path / "labels", SILENT)
    assert [model.settings.beam for model in whisper] == [5, 1]
    for changed, problem in (({"agree_beam": 1}, "names no source"), ({"agree_with": "whisper:base"}, "another beam")):
        with pytest.raises(ValueError, match=problem):
            PseudoLabelSettings(source="whisper:base", **changed)


@pytest.mark.corpora
def test_real_whisper_on_real_speech(tmp_path):
    models, corpora = (os.environ.get(name) for name in ("ASR_KD_MODELS", "ASR_KD_CORPORA"))
    model = Path(models or "") / "whisper-tiny.en-ct2"
    chapters = sorted(Path(corpora or "").glob("LibriSpeech/dev-clean/*/*")) if corpora else []
    if models is None or not model.is_dir() or not chapters:
        pytest.skip("needs Whisper's weights (ASR_KD_MODELS) and real speech (ASR_KD_CORPORA)")
    pytest.importorskip("faster_whisper")
    import soundfile

    rows = next(chapters[0].glob("*.trans.txt")).read_text().splitlines()[:3]
    utterances = []
    for row in rows:
        name, text = row.split(" ", 1)
        path = chapters[0] / f"{name}.flac"
        utterances.append(Utterance(name, path, soundfile.info(path).duration, text, "speaker"))
    write_manifest(tmp_path / "dev.jsonl", utterances)
    settings = PseudoLabelSettings(source=f"whisper:{model}", beam=1)
    pseudo_label(tmp_path / "dev.jsonl", settings, tmp_path / "labels", SILENT)
    report = json.loads((tmp_path / "labels" / FILTERS_FILE).read_text())
    assert report["steps"][0]["wer"] < 0.3


def test_a_recipe_makes_pseudo_labels_and_a_student_learns_from_them_alone(whisper, tmp_path):
    overrides = [
        f"work_dir={tmp_path}/run",
        "hypotheses.labels.source=whisper:base",
        "hypotheses.labels.filters.max_transcript_wer=null",
        "hypotheses.labels.filters.max_filtered_share=0.99",
        "hypotheses.labels.transcript_share=0.3",  # a mixture of transcripts and pseudo-labels
    ]
    first = command("extract", str(RECIPE), "--only", "labels", *overrides)
    assert first.code != 0  # the corpus is not prepared
    assert "prepare" in first.err
    assert command("prepare", str(RECIPE), *overrides).code == 0
    done = command("extract", str(RECIPE), "--only", "labels", *overrides)
    assert done.code == 0, done.err
    assert "max_compression_ratio" in done.out
    assert "keep their own transcripts (transcript_share)" in done.out
    calls = sum(model.calls for model in whisper)
    again = command("extract", str(RECIPE), "--only", "labels", *overrides, "hypotheses.labels.filters.max_repeats=9")
    assert again.code == 0, again.err
    assert sum(model.calls for model in whisper) == calls
    student = "students.student-hard"
    trained = command(
        "distill", str(RECIPE), "--only", "student-hard", *overrides, "hypotheses.labels.filters.max_repeats=9",
        f"{student}.hypotheses=labels", f"{student}.distill={{level: sequence, kd_weight: 1.0}}",
        f"{student}.train.epochs=1",
    )  # fmt: skip
    assert trained.code == 0, trained.err
