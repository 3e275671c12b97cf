"""Throughput of training and extraction on one GPU, on made-up audio. Run by gpu_check.sh, which lists the variables.

Prints hours of audio an hour, the share of a measured matrix product's rate, the largest memory, and the share of the
time spent waiting for data: for a student with CTC, a public encoder with a CTC head, and extraction with that teacher.
Operations are counted by torch's counter on one batch.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from training_batches import STREAMING, frames_of, make_dataset, make_stepper

from asr_kd.corpora.manifest import Utterance
from asr_kd.features.augment import Augmentation
from asr_kd.models.settings import ConformerSettings
from asr_kd.targets.extract import extract
from asr_kd.targets.settings import TargetSettings
from asr_kd.teachers.encoder_ctc import WAVEFORM_BLOCKS
from asr_kd.teachers.local import LocalTeacher, build_encoder_ctc, save_encoder_ctc
from asr_kd.teachers.settings import EncoderCtcSettings
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch import collate_batch
from asr_kd.training.batch_sampler import DurationBatchSampler
from asr_kd.training.settings import TrainSettings

DEVICE = torch.device(os.environ.get("DEVICE", "cuda"))
STUDENT = os.environ.get("STUDENT", "5m")
STEPS = int(os.environ.get("STEPS", "300"))
BATCH_SECONDS = float(os.environ.get("BATCH_SECONDS", "480"))
HOURS = float(os.environ.get("HOURS", "2"))
WORKERS = int(os.environ.get("WORKERS", "8"))
ENCODER = os.environ.get("ENCODER", "")
MINUTES = float(os.environ.get("MINUTES", "8"))
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ'"
PLAIN = TrainSettings(augmentation=Augmentation(spec_augment=None))


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(side: int = 8192) -> float:
    """Operations a second of a bf16 product of square matrices."""
    side = side if DEVICE.type == "cuda" else 1024
    left, right = (torch.randn(side, side, device=DEVICE).bfloat16() for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize()
        start = time.perf_counter()
        left @ right
        synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def made_up(folder: Path) -> list[Utterance]:
    """Noise of 4 to 20 s with random letters, 15 a second."""
    import soundfile

    utterances: list[Utterance] = []
    generator, total = torch.Generator().manual_seed(0), 0.0
    while total < 3600 * HOURS:
        seconds = 4.0 + len(utterances) % 17
        path = folder / f"{len(utterances)}.wav"
        noise = 0.1 * torch.randn(int(16_000 * seconds), generator=generator)
        soundfile.write(path, noise.numpy(), 16_000, subtype="PCM_16")
        letters = torch.randint(len(ALPHABET), (int(15 * seconds),), generator=generator).tolist()
        text = "".join(ALPHABET[letter] for letter in letters)
        utterances.append(Utterance(path.stem, path, seconds, text, f"speaker-{len(utterances) % 20}"))
        total += seconds
    return utterances


def batches(utterances: list[Utterance], vocabulary: Vocabulary, **more: Any) -> Iterator[Any]:
    """Batches without end, as the trainer's loader makes them."""
    dataset = make_dataset(utterances, vocabulary, 0, **more)
    sampler = DurationBatchSampler([u.duration for u in utterances], Augmentation(), BATCH_SECONDS, 1)
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate_batch,
        num_workers=WORKERS,
        pin_memory=DEVICE.type == "cuda",
        persistent_workers=WORKERS > 0,
    )
    epoch = 1
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def train(name: str, model: Any, vocabulary: Vocabulary, data: Iterator[Any], rate: float) -> None:
    """Take steps and print a row; the first tenth warms up."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    stepper = make_stepper(model, vocabulary, "bf16", settings=PLAIN, device=DEVICE)
    warm, audio, waited, operations, losses = STEPS // 10, 0.0, 0.0, 0, []
    begun = time.perf_counter()
    for step in range(STEPS):
        if step == warm:
            synchronize()
            begun, audio, waited = time.perf_counter(), 0.0, 0.0
        start = time.perf_counter()
        batch = next(data)
        waited += time.perf_counter() - start
        counter = FlopCounterMode(display=False) if step == 0 else contextlib.nullcontext()
        with counter:
            losses.append(stepper.take(batch, frames_of(batch), step, 1e-4).loss)
        if step == 0:
            operations, per_second = counter.get_total_flops(), float(batch.audio_lens.sum()) / 100  # type: ignore[union-attr]
            operations_a_second = operations / per_second
        audio += float(batch.audio_lens.sum()) / 100
    synchronize()
    row(name, audio, time.perf_counter() - begun, operations_a_second, rate, waited)
    print(f"{'':24}loss {losses[0]:.3f} → {losses[-1]:.3f}, finite steps {sum(map(is_finite, losses))} of {STEPS}")


def is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def row(name: str, audio: float, seconds: float, operations: float | None, rate: float, waited: float | None) -> None:
    memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if DEVICE.type == "cuda" else "–"
    share = "–" if operations is None else f"{audio * operations / seconds / rate:.1%}"
    wait = "–" if waited is None else f"{waited / seconds:.0%}"
    print(f"{name:24}{audio / seconds:>10.0f}{share:>16}{memory:>12}{wait:>12}")


def encoder_folder(folder: Path) -> str:
    """The encoder that ENCODER names, or a random one of Whisper base's size."""
    if ENCODER:
        return ENCODER
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=512, encoder_layers=6, decoder_layers=1, encoder_attention_heads=8, decoder_attention_heads=8
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor().save_pretrained(folder)
    return f"hf:{folder}"


def main() -> None:
    end = time.monotonic() + 60 * MINUTES
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU (rehearsal)"
    rate = matmul_rate()
    print(f"{name}, torch {torch.__version__}, bf16 matrix product {rate / 1e12:.1f} TFLOP/s, {WORKERS} readers")
    print(f"{'':24}{'h an hour':>10}{'of the product':>16}{'memory':>12}{'data wait':>12}")
    vocabulary = Vocabulary.characters([ALPHABET])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        utterances = made_up(folder)
        model = ConformerSettings.model_validate({"size": STUDENT, "streaming": STREAMING})
        train(f"train {STUDENT}", model, vocabulary, batches(utterances, vocabulary), rate)
        if time.monotonic() > end:
            print("MINUTES are over: the encoder teacher and extraction are left out")
            return
        settings = EncoderCtcSettings.model_validate(
            {"encoder": {"source": encoder_folder(folder / "encoder"), "cache_mb": 0}}
        )
        blocks = batches(utterances, vocabulary, features=WAVEFORM_BLOCKS)
        train("train encoder with head", settings, vocabulary, blocks, rate)
        if time.monotonic() > end:
            print("MINUTES are over: extraction is left out")
            return
        saved = build_encoder_ctc(settings, len(vocabulary))
        save_encoder_ctc(folder / "teacher", saved, vocabulary, {"name": "teacher"})
        some = utterances[: len(utterances) // 4]
        teacher = LocalTeacher(folder / "teacher", DEVICE, "bf16")
        start = time.perf_counter()
        extract(teacher, some, TargetSettings(speeds=(1.0,)), folder / "store")
        row("extract", sum(u.duration for u in some), time.perf_counter() - start, None, rate, None)


if __name__ == "__main__":
    main()
