"""Batches and steppers for benchmarks of training, as the trainer makes them. No script of its own."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch

from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.features.augment import NO_AUGMENTATION
from asr_kd.losses import DistillSettings, Objective, Shape
from asr_kd.models.conformer import Conformer
from asr_kd.models.layers import output_lens
from asr_kd.models.settings import ConformerSettings, Streaming
from asr_kd.teachers.encoder_ctc import EncoderCtc
from asr_kd.teachers.local import build_encoder_ctc
from asr_kd.teachers.settings import EncoderCtcSettings
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch import Batch, collate_batch
from asr_kd.training.batch_sampler import DurationBatchSampler, SampledUtterance
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.settings import TrainSettings
from asr_kd.training.step import Stepper
from asr_kd.training.training_job import Control, TrainingJob

STREAMING = Streaming(chunk_frames=8, left_context_frames=64)
MODELS = {
    "tiny": ConformerSettings(size="tiny", streaming=STREAMING),  # type: ignore[call-arg]
    "small": ConformerSettings(size="small"),  # type: ignore[call-arg]
}
"""The recipes' streaming student and full-context teacher."""


def read_corpus(folder: Path) -> tuple[list[Utterance], Vocabulary]:
    """The training set and vocabulary of a run's `manifests` folder."""
    return read_manifest(folder / "train.jsonl"), Vocabulary.load(folder / "tokens.txt")


def plan_batches(
    utterances: Sequence[Utterance], seconds: float, count: int, min_silence_frames: int = 0
) -> list[list[SampledUtterance]]:
    """So many batches of an epoch, the longest utterances to the shortest, without augmentation."""
    batches = DurationBatchSampler([u.duration for u in utterances], NO_AUGMENTATION, seconds, 1, min_silence_frames)
    ordered = sorted(batches, key=lambda batch: utterances[batch[0].row].duration)
    return [ordered[round((index + 0.5) * len(ordered) / count - 0.5)] for index in range(count)]


def make_dataset(
    utterances: Sequence[Utterance], vocabulary: Vocabulary, cache_mb: int = 1_000, **more: object
) -> SpeechDataset:
    """Examples with their tokens; features stay in memory once they are made."""
    tokens = [vocabulary.encode(utterance.text or "") for utterance in utterances]
    return SpeechDataset(utterances, tokens, 2.0, cache_mb, **more)  # type: ignore[arg-type]


def load(dataset: SpeechDataset, draws: Sequence[SampledUtterance]) -> Batch:
    """One batch, as the trainer's loader makes it."""
    return collate_batch([dataset[draw] for draw in draws])


def frames_of(batch: Batch) -> int:
    """Student frames, by which losses are divided."""
    return int(output_lens(batch.feature_lens).sum())


def make_stepper(
    model: ConformerSettings | EncoderCtcSettings,
    vocabulary: Vocabulary,
    precision: str,
    distill: DistillSettings | None = None,
    settings: TrainSettings | None = None,
    teacher: ConformerSettings | None = None,
    device: torch.device | str = "cpu",
) -> Stepper:
    """A fresh model and everything that a training step needs; `teacher` is whose layers are matched."""
    torch.manual_seed(0)
    device = torch.device(device)
    if isinstance(model, EncoderCtcSettings):
        student: Conformer | EncoderCtc = build_encoder_ctc(model, len(vocabulary)).train()
    else:
        student = Conformer(model, len(vocabulary)).train()
        student.set_normalisation(torch.full((80,), -7.0), torch.full((80,), 4.0))
    student = student.to(device)
    job = TrainingJob(
        name="benchmark",
        key="benchmark",
        model=model,
        train=settings or TrainSettings(),
        distill=distill,
        vocabulary=vocabulary,
        normalizer="none",
        seed=1,
        train_utterances=[],
        dev_utterances=[],
    )
    bf16 = torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
    layers = {"teacher_width": teacher.width, "teacher_layers": teacher.layers} if teacher is not None else {}
    streaming = model.streaming is not None
    shape = Shape(vocabulary.blank_id, len(vocabulary), model.width, model.num_layers, streaming=streaming, **layers)
    objective = Objective.from_settings(distill, shape).to(device)
    return Stepper(student, objective, job, Control(device=device), bf16)
