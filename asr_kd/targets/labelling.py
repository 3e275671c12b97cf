"""From utterances to packed targets: read, augment, compute the teacher's posteriors, keep their nucleus, pack.

An utterance that cannot be used becomes a quarantine entry with the reason.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.posteriors import DensePosteriors, keep_nucleus
from asr_kd.targets.audio_batches import Reading, batches_by_teacher, read_batches
from asr_kd.targets.packing import Codec, Packed
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import Array, ShardRow
from asr_kd.targets.shard_manifest import QuarantineEntry
from asr_kd.targets.sharding import variant_seconds
from asr_kd.targets.stored_arrays import Transcripts, layer_arrays, pool, run_teacher
from asr_kd.teachers.base import Teacher


@dataclass
class Labels:
    """Packed targets of some utterances."""

    rows: dict[str, list[ShardRow]] = field(default_factory=dict)
    """By id, one row for each variant."""
    quarantine: list[QuarantineEntry] = field(default_factory=list)


def label(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    transcripts: Transcripts,
    before_batch: Callable[[], None],
    after_batch: Callable[[Labels, float], None],
) -> Labels:
    """Label utterances in all variants; the result depends on the arguments alone.

    Args:
        teacher: its posteriors are kept.
        utterances: those of a shard; divided into batches here.
        settings: speeds, nucleus, whether to pool, and batch size.
        transcripts: tokens by id; used with `settings.pooled`.
        before_batch: called before each batch; may raise to stop.
        after_batch: called with the labels so far and the seconds of the batch; may raise to stop.
    """
    labels = Labels()
    planned = batches_by_teacher(teacher, utterances, settings.batch_seconds)
    batches = [batch for _, batch in planned]
    with closing(read_batches(batches, settings.variants, settings.readers)) as read:
        for (assigned, _), batch in zip(planned, read, strict=True):
            before_batch()
            _label_batch(assigned, batch, settings, transcripts, labels)
            after_batch(labels, sum(variant_seconds(item.utterance, settings) for item in batch))
    for entry in labels.quarantine:  # all of its variants or none
        labels.rows.pop(entry.id, None)
    return labels


def _label_batch(
    teacher: Teacher, batch: Sequence[Reading], settings: TargetSettings, transcripts: Transcripts, labels: Labels
) -> None:
    """Add a batch to `labels`; an utterance that fails in one variant is not tried in the next."""
    usable: list[Reading] = []
    for item in batch:
        if item.problem is None:
            usable.append(item)
        else:
            labels.quarantine.append(_quarantined(item.utterance, item.problem))
    for index in range(len(settings.variants)):
        good = []
        for item, row in zip(usable, _label_variant(teacher, usable, index, settings, transcripts), strict=True):
            if isinstance(row, str):
                labels.quarantine.append(_quarantined(item.utterance, row))
            else:
                labels.rows.setdefault(item.utterance.id, []).append(row)
                good.append(item)
        usable = good


def _quarantined(utterance: Utterance, reason: str) -> QuarantineEntry:
    return QuarantineEntry(id=utterance.id, path=str(utterance.audio), reason=reason)


def _label_variant(
    teacher: Teacher, usable: Sequence[Reading], variant: int, settings: TargetSettings, transcripts: Transcripts
) -> Iterator[ShardRow | str]:
    """Yield the row of each utterance, or the reason why there is none."""
    if not usable:
        return
    described, blank_id = settings.variants[variant].words, teacher.vocabulary.blank_id
    codec = settings.codec(len(teacher.vocabulary), blank_id)
    ids = [item.utterance.id for item in usable]
    dense, hidden = run_teacher(teacher, [item.waveforms[variant] for item in usable], settings.layers, ids)
    nucleus = keep_nucleus(dense.log_probs.float().exp(), settings.epsilon, settings.max_entries)
    finite = dense.log_probs.isnan().any(-1).logical_not()  # −inf is the logarithm of 0, and fine
    finite = torch.stack([finite, *(layer.isfinite().all(-1) for layer in hidden.values())]).all(0).cpu()
    tokens, probs = (part.cpu().numpy() for part in nucleus)
    further = _further(dense, ids, settings, transcripts, codec)
    for index, num_frames in enumerate(dense.lens.tolist()):
        if num_frames == 0:
            yield f"too short for the teacher {described}: no frame of {teacher.frame_shift_ms:g} ms"
        elif not finite[index, :num_frames].all():
            yield f"the teacher's posteriors{' or layers' if hidden else ''} are not finite {described}"
        else:
            arrays, posteriors = further[index]
            packed = codec.pack(tokens[index, :num_frames], probs[index, :num_frames])
            yield ShardRow(packed, {**arrays, **layer_arrays(hidden, index, num_frames)}, posteriors)


def _further(
    dense: DensePosteriors, ids: Sequence[str], settings: TargetSettings, transcripts: Transcripts, codec: Codec
) -> Sequence[tuple[Mapping[str, Array], Mapping[str, Packed]]]:
    """Return the pooled posteriors of each utterance, where the settings request them."""
    if not settings.pooled:
        return [({}, {}) for _ in ids]
    return pool(dense, [transcripts[name] for name in ids], codec, settings.epsilon)
