"""Train one model: select the data, run the loop, average the weights and write the model folder."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.distributed import Ranks
from asr_kd.errors import AudioError, TrainingError
from asr_kd.evaluation.system import FALLING_CURVE
from asr_kd.features.augment import NO_AUGMENTATION
from asr_kd.features.fbank import fbank
from asr_kd.features.silence import LOG_MEL
from asr_kd.files import write_text
from asr_kd.losses import Objective, Shape
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.weights import Model, build_model, save_model
from asr_kd.models.whisper import StreamingWhisper
from asr_kd.progress import Progress
from asr_kd.teachers.base import LayeredTeacher
from asr_kd.teachers.encoder_ctc import WAVEFORM_BLOCKS, EncoderCtc
from asr_kd.teachers.local import build_encoder_ctc, save_encoder_ctc
from asr_kd.teachers.settings import EncoderCtcSettings
from asr_kd.text.normalize import normalize
from asr_kd.training.batch import collate_batch
from asr_kd.training.batch_sampler import DurationBatchSampler
from asr_kd.training.checkpoint import (
    TrainingState,
    best_epochs,
    best_path,
    has_checkpoint,
    load_average,
    still_falling,
)
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.distiller import Distiller
from asr_kd.training.selection import Selection, select
from asr_kd.training.training_job import Control, TrainingJob
from asr_kd.training.warm_start import start_from_whisper, warm_start

NORMALISATION_SAMPLE = 1000
"""Utterances in the sample: more would not change the statistics noticeably."""

_log = logging.getLogger(__name__)


def measure_normalisation(utterances: Sequence[Utterance], seed: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, [F] float32 each, over a random sample of the utterances.

    Unreadable utterances are skipped here; they are counted and reported when training reads them.

    Raises:
        TrainingError: none of them can be read.
    """
    order = np.random.default_rng(seed).permutation(len(utterances))[:NORMALISATION_SAMPLE]
    count, total, squares = 0, *torch.zeros(2, dtype=torch.float64)
    for index in order:
        try:
            features = fbank(read_utterance(utterances[index])).double()
        except AudioError:
            continue
        count += features.shape[0]
        total = total + features.sum(0)
        squares = squares + features.square().sum(0)
    if count == 0:
        raise TrainingError(
            "none of the training utterances can be read", remedy="Look at the corpus with `asr-kd check`"
        )
    mean = total / count
    return mean.float(), (squares / count - mean.square()).clamp_min(0).sqrt().float()


DEV_SILENCE_FRAMES = 60
"""Silence (10 ms frames) appended to dev utterances, for models that emit tokens late."""

OBJECTIVE_SEED = 1 << 32
"""Added to a job's seed for the parameters of objectives, so that they differ from the model's."""


def train(job: TrainingJob, folder: Path, control: Control) -> Path:
    """Train or resume, write `folder/model` and return it.

    Also written: `checkpoints/`, `best/` (the epochs that are averaged), `curve.jsonl`, `tensorboard/`, and
    `excluded.jsonl` with every utterance that was left out and why.

    Raises:
        StoppedEarly: stopped on request; the state is saved.
        TrainingError: nothing to train on, too much unreadable audio, or too many steps that are not finite.
    """
    ranks, progress = control.ranks, control.run_progress
    resumes = ranks.broadcast(has_checkpoint(folder / "checkpoints"))  # one decision: each reads its own disk
    torch.manual_seed(job.seed + OBJECTIVE_SEED)  # parameters of objectives start equal in all processes
    objective = Objective.from_settings(job.distill, _shape(job))
    selection = select(job, objective)
    usable = selection.utterances
    _report(job, selection, folder, progress, ranks)
    torch.manual_seed(job.seed)
    size = len(job.vocabulary)
    model = (
        build_encoder_ctc(job.model, size)
        if isinstance(job.model, EncoderCtcSettings)
        else build_model(job.model, size)
    )
    if isinstance(model, EncoderCtc):  # whose encoder normalises its own features
        model.keep_outputs()
    elif job.train.init_models:  # the weights include the normalisation of the features
        warm_start(model, job.vocabulary, job.train)
    elif not resumes:  # the checkpoint holds the statistics and the weights
        _set_normalisation(model, usable, job.seed, ranks)
        if isinstance(model, StreamingWhisper):
            start_from_whisper(model, usable, job.seed, ranks, progress)
    loaders = _loaders(job, objective, selection, control)
    if isinstance(job.dense_teacher, Model):  # those that read waveforms are opened where they run
        job.dense_teacher.to(control.device).eval()
    distiller = Distiller(model.to(control.device), objective.to(control.device), job, folder, control)
    try:
        distiller.fit_all(*loaders)
    finally:
        if distiller.writer is not None:
            distiller.writer.close()
            _write_rows(folder / "curve.jsonl", distiller.state.curve)
    if ranks.first:
        _write_model(job, folder, model, distiller.state, len(usable), selection.excluded)
    ranks.barrier()
    return folder / "model"


def _shape(job: TrainingJob) -> Shape:
    """Return the shapes of student and teacher that the objective depends on."""
    width, layers = None, None
    if isinstance(job.dense_teacher, Model):
        width, layers = job.dense_teacher.settings.width, job.dense_teacher.settings.num_layers
    elif isinstance(job.dense_teacher, LayeredTeacher):
        width, layers = job.dense_teacher.width, job.dense_teacher.num_layers
    elif job.store is not None and job.store.info.layers:
        width, layers = next(iter(job.store.info.layers.values())), max(job.store.info.layers)
    return Shape(
        blank_id=job.vocabulary.blank_id,
        vocab_size=len(job.vocabulary),
        width=job.model.width,
        layers=job.model.num_layers,
        teacher_width=width,
        teacher_layers=layers,
        streaming=job.model.streaming is not None,
    )


def _report(job: TrainingJob, selection: Selection, folder: Path, progress: Progress, ranks: Ranks) -> None:
    """Report and list the utterances that are left out.

    Raises:
        TrainingError: no utterance is left.
    """
    if any(selection.hypotheses):
        progress.message(f"{job.name}: trains on {selection.summary()}")
    excluded, path = selection.excluded, folder / "excluded.jsonl"
    if excluded:
        progress.message(f"{job.name}: {len(excluded)} left out, listed in {path}")
    if ranks.first:
        _write_rows(path, excluded)
    if not selection.utterances:
        raise TrainingError("no utterance is left to train on", where=path, remedy="See why in that file")


def _set_normalisation(model: Model, utterances: Sequence[Utterance], seed: int, ranks: Ranks) -> None:
    """Measure in the first process and broadcast."""
    model.set_normalisation(*ranks.broadcast(measure_normalisation(utterances, seed) if ranks.first else None))


def _write_model(
    job: TrainingJob,
    folder: Path,
    model: Model | EncoderCtc,
    state: TrainingState,
    num_trained: int,
    excluded: list[dict[str, str]],
) -> None:
    """Write the averaged weights as a model folder, and the list of excluded utterances."""
    excluded = excluded + [{"id": id_, **row} for id_, row in state.unreadable.items()]
    _write_rows(folder / "excluded.jsonl", excluded)
    averaged = best_epochs(state.curve, job.train.average_best)
    load_average(model, [best_path(folder, epoch) for epoch in averaged])
    falling = still_falling(state.curve, averaged)
    if falling:
        _log.warning("%s: %s", job.name, falling)
    card = {
        **job.card,
        "name": job.name,
        "key": job.key,
        "epochs": job.train.epochs,
        "steps": state.step,
        "best_dev_wer": min((row["dev_wer"] for row in state.curve if "dev_wer" in row), default=None),
        "nonfinite_steps": state.nonfinite_total,
        "averaged_epochs": averaged,
        "parameters": model.num_parameters,
        "training_utterances": num_trained,
        "excluded_utterances": len(excluded),
        FALLING_CURVE: falling,
    }
    if isinstance(model, EncoderCtc):
        save_encoder_ctc(folder / "model", model, job.vocabulary, card)
    else:
        save_model(folder / "model", model, job.vocabulary, card)


def _loaders(
    job: TrainingJob, objective: Objective, selection: Selection, control: Control
) -> tuple[DataLoader[Any], DataLoader[Any], DurationBatchSampler, dict[str, str]]:
    settings, ranks = job.train, control.ranks
    features = WAVEFORM_BLOCKS if isinstance(job.model, EncoderCtcSettings) else LOG_MEL
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
        selection.hypotheses,
        objective.needs_arrays,
        augmentation.perturb,
        job.augmented_copies,
        features,
        with_waveforms=job.dense_teacher is not None and not isinstance(job.dense_teacher, Model),
    )
    batches = DurationBatchSampler(
        [u.duration for u in usable],
        augmentation,
        settings.batch_seconds,
        job.seed,
        min_silence,
        epochs=settings.epochs,
        curriculum_epochs=settings.curriculum_epochs,
        **share,
    )
    train_loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate_batch,
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,  # with their caches, which end with them
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
    plain = DurationBatchSampler([u.duration for u in known], NO_AUGMENTATION, 60.0, 0, DEV_SILENCE_FRAMES, **share)
    dev_loader: DataLoader[Any] = DataLoader(dev, batch_sampler=plain, collate_fn=collate_batch, pin_memory=pinned)
    return train_loader, dev_loader, batches, references


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
