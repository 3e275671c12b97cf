"""Extraction of soft targets: a teacher's posteriors of a manifest, kept in a store shard by shard.

Utterances are read, augmented and given to the teacher in batches; the nucleus of each frame is packed. Hidden layers
and posteriors pooled over the transcript's tokens are stored beside them where the settings request it. An utterance
that cannot be used becomes a quarantine entry with the reason.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from asr_kd.corpora.fingerprint import audio_sha256
from asr_kd.corpora.manifest import Utterance, even_sample
from asr_kd.files import json_text
from asr_kd.posteriors import keep_nucleus
from asr_kd.targets.fidelity import FIDELITY, Fidelity, measure_fidelity, read_fidelity
from asr_kd.targets.packing import Codec, Packed
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import Array, ShardRow, parts_sha256, shard_bytes
from asr_kd.targets.shard_manifest import ShardManifest
from asr_kd.targets.sharded_extraction import (
    Reading,
    ShardedExtraction,
    ShardMaker,
    ShardReport,
    batches_by_teacher,
)
from asr_kd.targets.sharding import EVERYTHING, PlannedShard, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.store import Store
from asr_kd.targets.store_index import (
    PosteriorShardEntry,
    StoreInfo,
    TeacherIdentity,
    VocabularyIdentity,
    write_vocabulary,
)
from asr_kd.targets.stored_arrays import Transcripts, layer_arrays, layer_widths, pool, run_teacher, transcripts_sha256
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import OutOfFold


@dataclass(frozen=True)
class ExtractionReport(ShardReport[StoreInfo]):
    """Report of an extraction of soft targets."""

    fidelity: Fidelity | None
    """None while other workers are still busy."""


def extract(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    folder: Path | str,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
    transcripts: Transcripts | None = None,
) -> ExtractionReport:
    """Label utterances into a store, resuming where an earlier call stopped.

    Several processes may call this at once with the same arguments but for the share: each makes its own shards, and
    the last one completes the store. Equal shares are safe: each shard is made by one of them.

    Args:
        utterances: each id once; all of them, whatever the share.
        folder: of the store, created when missing: a path, or any URL that fsspec reaches.
        progress: called with seconds of audio done and in all, over all variants and workers.
        transcripts: of all utterances, see `spell_transcripts`; needed with `settings.pooled` only.

    Raises:
        ValueError: `settings.pooled` without transcripts.
        TargetsError: the folder holds another teacher's, data's or settings' targets; too many unusable utterances;
            the teacher does not expose the layers; or it cannot be written (disk full): finished shards stay usable.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    if settings.pooled and transcripts is None:
        raise ValueError("settings.pooled needs transcripts")
    plan, storage, transcripts = plan_shards(utterances, settings), open_storage(folder), transcripts or {}

    manifest = ShardManifest(storage, _describe(teacher, utterances, settings, transcripts), plan)
    maker = shard_maker(teacher, settings, transcripts)
    report = ShardedExtraction(manifest, share, maker, should_stop, progress).run(
        lambda: write_vocabulary(storage, teacher.vocabulary)
    )
    fidelity = _fidelity(teacher, utterances, settings, storage, report) if report.info.complete else None
    return ExtractionReport(**vars(report), fidelity=fidelity)


def _fidelity(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    storage: Storage,
    report: ShardReport[StoreInfo],
) -> Fidelity:
    known = None if report.made else read_fidelity(storage)
    info = report.info
    if known is not None and (known.bytes_per_frame, known.entries_per_frame) == (
        info.bytes_per_frame,
        info.entries_per_frame,
    ):
        return known  # else a worker was stopped between its last shard and the report
    # The sample is drawn here: a look-up of all utterances would open every shard.
    left_out = {entry.id for entry in report.quarantine}
    stored = [u for u in sorted(utterances, key=lambda item: item.id) if u.id not in left_out]
    sample = even_sample(stored, settings.fidelity_utterances)
    fidelity = measure_fidelity(teacher, Store(storage, report.info), sample, settings)
    storage.write(FIDELITY, json_text(fidelity.model_dump()).encode())
    return fidelity


def _describe(
    teacher: Teacher, utterances: Sequence[Utterance], settings: TargetSettings, transcripts: Transcripts
) -> StoreInfo:
    vocabulary = teacher.vocabulary
    folds = tuple(member.sha256 for member in teacher.members) if isinstance(teacher, OutOfFold) else ()
    return StoreInfo(
        teacher=TeacherIdentity(name=teacher.name, sha256=teacher.sha256, folds=folds),
        vocabulary=VocabularyIdentity(size=len(vocabulary), sha256=vocabulary.sha256, blank_id=vocabulary.blank_id),
        frame_shift_ms=teacher.frame_shift_ms,
        frame_offset_ms=teacher.frame_offset_ms,
        features=dict(teacher.features),
        **settings.model_dump(include={"epsilon", "max_entries", "certain_blank", "levels"}),
        variants=settings.variant_names,
        perturbed={name: sound.model_dump(mode="json") for name, sound in settings.perturbed.items()},
        manifest_sha256=manifest_sha256(utterances),
        transcripts_sha256=transcripts_sha256(transcripts) if settings.pooled else None,
        layers=layer_widths(teacher, settings.layers),
        planned_shards=0,
    )


def shard_maker(teacher: Teacher, settings: TargetSettings, transcripts: Transcripts) -> ShardMaker[list[ShardRow]]:
    """Return what makes shards of soft targets: of each utterance a row for each variant.

    Args:
        transcripts: tokens by id; used with `settings.pooled`.
    """
    codec = settings.codec(len(teacher.vocabulary), teacher.vocabulary.blank_id)
    return ShardMaker(
        batches=lambda utterances: batches_by_teacher(teacher, utterances, settings.batch_seconds),
        label=lambda assigned, batch: _label_batch(assigned, batch, settings, codec, transcripts),
        pack=lambda shard, rows: pack_rows(shard, rows, codec),
        settings=settings,
    )


def pack_rows(
    shard: PlannedShard, rows: Mapping[str, Sequence[ShardRow]], codec: Codec
) -> tuple[bytes, PosteriorShardEntry]:
    """Return the content of a shard, and its entry in the index."""
    content = shard_bytes(codec, rows)
    packed = [row.packed for variants in rows.values() for row in variants]
    certain = sum(int(item.runs.sum()) for item in packed)
    written = sum(int((item.events > 0).sum()) for item in packed)
    return content, PosteriorShardEntry(
        file=f"{shard.name}.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        first_id=shard.utterances[0].id,
        audio_sha256=audio_sha256(shard.utterances),
        utterances=len(rows),
        frames=written + certain,
        entries=sum(len(item.tokens) for item in packed) + certain,
        certain_frames=certain,
        parts=parts_sha256(content),
    )


def _label_batch(
    teacher: Teacher, batch: Sequence[Reading], settings: TargetSettings, codec: Codec, transcripts: Transcripts
) -> list[list[ShardRow] | str]:
    """Label a batch in all variants; an utterance that fails in one is not tried in the next."""
    found: list[list[ShardRow] | str] = [[] for _ in batch]
    for variant in range(len(settings.variants)):
        usable = [(batch[index], rows) for index, rows in enumerate(found) if isinstance(rows, list)]
        labelled = _label_variant(teacher, [item for item, _ in usable], variant, settings, codec, transcripts)
        for (item, rows), row in zip(usable, labelled, strict=True):
            if isinstance(row, str):
                found[batch.index(item)] = row
            else:
                rows.append(row)
    return found


def _label_variant(
    teacher: Teacher,
    usable: Sequence[Reading],
    variant: int,
    settings: TargetSettings,
    codec: Codec,
    transcripts: Transcripts,
) -> Iterator[ShardRow | str]:
    """Yield the row of each utterance, or the reason why there is none."""
    if not usable:
        return
    described = settings.variants[variant].words
    ids = [item.utterance.id for item in usable]
    dense, hidden = run_teacher(teacher, [item.waveforms[variant] for item in usable], settings.layers, ids)
    nucleus = keep_nucleus(dense.log_probs.float().exp(), settings.epsilon, settings.max_entries)
    finite = dense.log_probs.isnan().any(-1).logical_not()  # −inf is the logarithm of 0, and fine
    finite = torch.stack([finite, *(layer.isfinite().all(-1) for layer in hidden.values())]).all(0).cpu()
    tokens, probs = nucleus.tokens.cpu().numpy(), nucleus.probs.cpu().numpy()
    further: Sequence[tuple[Mapping[str, Array], Mapping[str, Packed]]] = [({}, {})] * len(usable)
    if settings.pooled:
        further = pool(dense, [transcripts[name] for name in ids], codec, settings.epsilon)
    for index, num_frames in enumerate(dense.lens.tolist()):
        if num_frames == 0:
            yield f"too short for the teacher {described}: no frame of {teacher.frame_shift_ms:g} ms"
        elif not finite[index, :num_frames].all():
            yield f"the teacher's posteriors{' or layers' if hidden else ''} are not finite {described}"
        else:
            arrays, posteriors = further[index]
            packed = codec.pack(tokens[index, :num_frames], probs[index, :num_frames])
            yield ShardRow(packed, {**arrays, **layer_arrays(hidden, index, num_frames)}, posteriors)
