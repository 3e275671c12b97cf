"""One model from utterances: what can be trained on, the loop, the averaged weights, the model folder.

Knows what a training run is; which runs there are is the recipe's business.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from asr_kd.corpora.manifest import Utterance
from asr_kd.distributed import ALONE, Ranks
from asr_kd.errors import TrainingError
from asr_kd.features.augment import Augmentation
from asr_kd.features.fbank import fbank
from asr_kd.files import write_text
from asr_kd.losses import Objective, Shape
from asr_kd.models.conformer import Conformer
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.models.weights import save_model
from asr_kd.progress import SILENT, Progress
from asr_kd.teachers.encoder_ctc import EncoderCtc, waveform_blocks
from asr_kd.teachers.encoder_folder import build_encoder_ctc, save_encoder_ctc
from asr_kd.teachers.encoder_settings import EncoderCtcSettings
from asr_kd.text.normalize import normalize
from asr_kd.training.averaging import best_epochs, best_path, load_average
from asr_kd.training.batch_sampler import EpochBatches
from asr_kd.training.checkpoint import TrainingState, has_checkpoint
from asr_kd.training.data import SpeechDataset, collate_batch
from asr_kd.training.distiller import Distiller
from asr_kd.training.job import TrainingJob
from asr_kd.training.normalisation import measure_normalisation
from asr_kd.training.selection import Selection, select
from asr_kd.training.training_context import TrainingContext
from asr_kd.training.warm_start import start_from

DEV_SILENCE_FRAMES = 60
"""Silence (10 ms frames) after dev utterances, so that a model that speaks late is not cut off."""

OBJECTIVE_SEED = 1 << 32
"""Added to a job's seed for the parameters of objectives, whose numbers are not to be the model's."""

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Control:
    """Where a run computes, reports to, who may stop it, and which processes share it."""

    device: torch.device = CPU
    progress: Progress = SILENT
    should_stop: Callable[[], str | None] = lambda: None
    ranks: Ranks = ALONE


def train(job: TrainingJob, folder: Path, control: Control) -> Path:
    """Train, or go on training, and write `folder/model`; returns it.

    Also written: `checkpoints/`, `best/` (the epochs that are averaged), `curve.jsonl`, `tensorboard/`, and
    `excluded.jsonl` with every utterance that was left out and why.

    Raises:
        StoppedEarly: asked to stop; state saved.
        TrainingError: nothing to train on, too much unreadable audio, or too many steps that are not finite.
    """
    ranks = control.ranks
    progress = control.progress if ranks.first else SILENT
    torch.manual_seed(job.seed + OBJECTIVE_SEED)  # what an objective trains begins alike in all processes and runs
    objective = Objective.from_settings(job.distill, _shape(job))
    selection = select(job, objective)
    usable = selection.utterances
    _report(job, selection, folder, progress, ranks)
    torch.manual_seed(job.seed)
    model = _new_model(job)
    if isinstance(model, EncoderCtc):
        pass  # its encoder's features come with it
    elif job.train.init_from is None:
        _set_normalisation(model, usable, job.seed, folder, ranks)
    else:  # the features' normalisation belongs to the weights
        start_from(model, job.vocabulary, job.train)
    train_loader, dev_loader, batches, references = _loaders(job, objective, selection, control)
    writer = SummaryWriter(str(folder / "tensorboard")) if ranks.first else None
    around = TrainingContext(
        name=job.name,
        job=job.hash(),
        folder=folder,
        vocabulary=job.vocabulary,
        seed=job.seed,
        batches=batches,
        dev_references=references,
        progress=progress,
        should_checkpoint=_every(job.train.checkpoint_minutes),
        should_stop=control.should_stop,
        log_scalars=partial(_log_scalars, writer),
        dense_teacher=job.dense_teacher.to(control.device).eval() if job.dense_teacher is not None else None,
        ranks=ranks,
        own_progress=control.progress,
    )
    distiller = Distiller(model.to(control.device), objective.to(control.device), job.train, around, control.device)
    try:
        distiller.fit_all(train_loader, dev_loader)
    finally:
        if writer is not None:
            writer.close()
            _write_rows(folder / "curve.jsonl", distiller.state.curve)
    if ranks.first:
        _write_model(job, folder, model, distiller.state, len(usable), selection.excluded)
    ranks.barrier()
    return folder / "model"


def _new_model(job: TrainingJob) -> Conformer | EncoderCtc:
    if isinstance(job.model, EncoderCtcSettings):
        return build_encoder_ctc(job.model, len(job.vocabulary))
    return Conformer(job.model, len(job.vocabulary))


def _shape(job: TrainingJob) -> Shape:
    """What the objective must know of student and teacher."""
    width, layers = _layers_of_teacher(job)
    return Shape(
        blank_id=job.vocabulary.blank_id,
        vocab_size=len(job.vocabulary),
        width=job.model.width,
        layers=job.model.layers,
        teacher_width=width,
        teacher_layers=layers,
        streaming=job.model.streaming is not None,
    )


def _layers_of_teacher(job: TrainingJob) -> tuple[int | None, int | None]:
    """Width and last layer of the teacher that runs along, or whose layers are stored; None where there is none."""
    if job.dense_teacher is not None:
        return job.dense_teacher.settings.width, job.dense_teacher.settings.layers
    if job.store is not None and job.store.info.layers:
        return next(iter(job.store.info.layers.values())), max(job.store.info.layers)
    return None, None


def _report(job: TrainingJob, selection: Selection, folder: Path, progress: Progress, ranks: Ranks) -> None:
    """Say and list what is left out.

    Raises:
        TrainingError: that is everything.
    """
    if selection.said:
        progress.message(f"{job.name}: {selection.said}")
    excluded, path = selection.excluded, folder / "excluded.jsonl"
    if excluded:
        progress.message(f"{job.name}: {len(excluded)} utterances left out, listed in {path}")
    if ranks.first:
        _write_rows(path, excluded)
    if not selection.utterances:
        raise TrainingError("no utterance is left to train on", where=path, remedy="See why in that file")


def _set_normalisation(
    model: Conformer, utterances: Sequence[Utterance], seed: int, folder: Path, ranks: Ranks
) -> None:
    """Measured by the first process, for all; a checkpoint holds them already."""
    measured = None
    if ranks.first and not has_checkpoint(folder / "checkpoints"):
        measured = [part.tolist() for part in measure_normalisation(utterances, seed)]
    measured = ranks.broadcast(measured)
    if measured is not None:
        model.set_normalisation(*(torch.tensor(part) for part in measured))


def _write_model(
    job: TrainingJob,
    folder: Path,
    model: Conformer | EncoderCtc,
    state: TrainingState,
    num_trained: int,
    excluded: list[dict[str, str]],
) -> None:
    """The averaged weights as a model folder, and everything that was left out."""
    excluded = excluded + [{"id": id_, **row} for id_, row in state.unreadable.items()]
    _write_rows(folder / "excluded.jsonl", excluded)
    averaged = best_epochs(state.curve, job.train.average_best)
    load_average(model, [best_path(folder, epoch) for epoch in averaged])
    counts = {"training_utterances": num_trained, "excluded_utterances": len(excluded)}
    card = {**_card(job, state), "averaged_epochs": averaged, "parameters": model.num_parameters, **counts}
    if isinstance(model, EncoderCtc):
        save_encoder_ctc(folder / "model", model, job.vocabulary, card)
    else:
        save_model(folder / "model", model, job.vocabulary, card)


def _card(job: TrainingJob, state: TrainingState) -> dict[str, Any]:
    """What the model's folder says of the run."""
    return {
        **job.card,
        "name": job.name,
        "job": job.hash(),
        "epochs": job.train.epochs,
        "steps": state.step,
        "best_dev_wer": min(row["dev_wer"] for row in state.curve if "dev_wer" in row),
        "nonfinite_steps": state.nonfinite_total,
    }


def _log_scalars(writer: SummaryWriter | None, scalars: dict[str, float], step: int) -> None:
    if writer is not None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, step)


def _loaders(
    job: TrainingJob, objective: Objective, selection: Selection, control: Control
) -> tuple[DataLoader[Any], DataLoader[Any], EpochBatches, dict[str, str]]:
    settings, ranks = job.train, control.ranks
    features = waveform_blocks if isinstance(job.model, EncoderCtcSettings) else fbank
    share = {"rank": ranks.rank, "count": ranks.count}
    pinned = control.device.type == "cuda"
    min_silence = objective.delay_frames * FRAME_SHIFT_MS // 10
    augmentation = settings.augmentation
    longest = max(augmentation.silence_max_seconds if augmentation.silence_share else 0.0, min_silence / 100)
    usable, cache_mb = selection.utterances, settings.feature_cache_mb
    dataset = SpeechDataset(
        usable,
        selection.tokens,
        longest,
        cache_mb,
        job.store,
        selection.taught,
        objective.needs_arrays,
        augmentation.perturb,
        job.versions,
        features,
    )
    batches = EpochBatches(
        [u.duration for u in usable],
        augmentation,
        settings.batch_seconds,
        job.seed,
        min_silence,
        curriculum_epochs=settings.curriculum_epochs,
        **share,
    )
    train_loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate_batch,
        num_workers=settings.workers,
        pin_memory=pinned,
    )
    known = []
    for utterance in job.dev_utterances:
        text = normalize(utterance.text or "", job.normalizer)
        if text and not job.vocabulary.unknown_characters(text):
            known.append(utterance)
    if not known:
        raise TrainingError(
            "no dev utterance has a transcript in the vocabulary", remedy="Look at the corpus with `asr-kd check`"
        )
    references = {u.id: normalize(u.text or "", job.normalizer) for u in known}
    dev_tokens = [job.vocabulary.encode(references[u.id]) for u in known]
    dev = SpeechDataset(known, dev_tokens, DEV_SILENCE_FRAMES / 100, settings.feature_cache_mb, features=features)
    plain = EpochBatches(
        [u.duration for u in known], Augmentation(spec_augment=None), 60.0, 0, DEV_SILENCE_FRAMES, **share
    )
    dev_loader: DataLoader[Any] = DataLoader(dev, batch_sampler=plain, collate_fn=collate_batch, pin_memory=pinned)
    return train_loader, dev_loader, batches, references


def _every(minutes: float) -> Callable[[], bool]:
    """True once every so many minutes."""
    last = time.monotonic()

    def due() -> bool:
        nonlocal last
        if time.monotonic() - last < minutes * 60:
            return False
        last = time.monotonic()
        return True

    return due


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
