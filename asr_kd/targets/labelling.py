"""From utterances to packed targets: audio read, perturbed, heard by the teacher, its nucleus kept.

An utterance that cannot be used becomes a quarantine entry with the reason. Knows nothing of shards or workers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.posteriors import DensePosteriors, keep_nucleus
from asr_kd.targets.layers import hear, layer_arrays
from asr_kd.targets.packing import Codec, Packed
from asr_kd.targets.pooled import Transcripts, pool
from asr_kd.targets.reading import Reading, read_batches
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import Array, ShardRow
from asr_kd.targets.shard_manifest import QuarantineEntry
from asr_kd.targets.sharding import plan_batches, variant_seconds
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import OutOfFold


@dataclass
class Labels:
    """What came out of some utterances."""

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
        teacher: what listens.
        utterances: those of a shard; cut into batches here.
        settings: speeds, nucleus, whether to pool, and batch size.
        transcripts: what is pooled over, by id; looked at only when something is.
        before_batch: may raise to stop.
        after_batch: told what there is so far and the seconds just done; may raise to stop.
    """
    labels = Labels()
    planned = batches_by_teacher(teacher, utterances, settings.batch_seconds)
    batches = [batch for _, batch in planned]
    with closing(read_batches(batches, settings.heard, settings.readers)) as read:
        for (listener, _), batch in zip(planned, read, strict=True):
            before_batch()
            _label_batch(listener, batch, settings, transcripts, labels)
            after_batch(labels, sum(variant_seconds(item.utterance, settings) for item in batch))
    for entry in labels.quarantine:  # all of its variants or none
        labels.rows.pop(entry.id, None)
    return labels


def batches_by_teacher(
    teacher: Teacher, utterances: Iterable[Utterance], batch_seconds: float
) -> list[tuple[Teacher, list[Utterance]]]:
    """Return batches as of `plan_batches`, each with the one teacher that labels it."""
    groups: dict[int, tuple[Teacher, list[Utterance]]] = {}
    for utterance in utterances:
        chosen = teacher.member_for(utterance.id) if isinstance(teacher, OutOfFold) else teacher
        groups.setdefault(id(chosen), (chosen, []))[1].append(utterance)
    return [(chosen, batch) for chosen, members in groups.values() for batch in plan_batches(members, batch_seconds)]


def listen(teacher: Teacher, waveforms: Sequence[Tensor]) -> DensePosteriors:
    """The teacher's posteriors of waveforms [S] each."""
    return hear(teacher, waveforms)[0]


def _label_batch(
    teacher: Teacher, batch: Sequence[Reading], settings: TargetSettings, transcripts: Transcripts, labels: Labels
) -> None:
    """Add what comes of a batch to `labels`; an utterance that fails in one variant is not tried in the next."""
    heard: list[Reading] = []
    for item in batch:
        if item.problem is None:
            heard.append(item)
        else:
            labels.quarantine.append(_quarantined(item.utterance, item.problem))
    for index in range(len(settings.heard)):
        good = []
        for item, row in zip(heard, _label_variant(teacher, heard, index, settings, transcripts), strict=True):
            if isinstance(row, str):
                labels.quarantine.append(_quarantined(item.utterance, row))
            else:
                labels.rows.setdefault(item.utterance.id, []).append(row)
                good.append(item)
        heard = good


def _quarantined(utterance: Utterance, reason: str) -> QuarantineEntry:
    return QuarantineEntry(id=utterance.id, path=str(utterance.audio), reason=reason)


def _label_variant(
    teacher: Teacher, heard: Sequence[Reading], variant: int, settings: TargetSettings, transcripts: Transcripts
) -> Iterator[ShardRow | str]:
    """For each utterance its row, or why there is none."""
    if not heard:
        return
    called, blank_id = settings.heard[variant].words, teacher.vocabulary.blank_id
    codec = settings.codec(len(teacher.vocabulary), blank_id)
    dense, hidden = hear(teacher, [item.waveforms[variant] for item in heard], settings.layers)
    nucleus = keep_nucleus(dense.log_probs.float().exp(), settings.epsilon, settings.max_entries)
    finite = dense.log_probs.isnan().any(-1).logical_not()  # −inf is the logarithm of 0, and fine
    finite = torch.stack([finite, *(layer.isfinite().all(-1) for layer in hidden.values())]).all(0).cpu()
    tokens, probs = (part.cpu().numpy() for part in nucleus)
    further = _further(dense, [item.utterance.id for item in heard], settings, transcripts, codec)
    for index, num_frames in enumerate(dense.lens.tolist()):
        if num_frames == 0:
            yield f"too short for the teacher {called}: no frame of {teacher.frame_shift_ms:g} ms"
        elif not finite[index, :num_frames].all():
            yield f"the teacher's posteriors{' or layers' if hidden else ''} are not numbers {called}"
        else:
            arrays, posteriors = further[index]
            packed = codec.pack(tokens[index, :num_frames], probs[index, :num_frames])
            yield ShardRow(packed, {**arrays, **layer_arrays(hidden, index, num_frames)}, posteriors)


def _further(
    dense: DensePosteriors, ids: Sequence[str], settings: TargetSettings, transcripts: Transcripts, codec: Codec
) -> Sequence[tuple[Mapping[str, Array], Mapping[str, Packed]]]:
    """For each utterance what is stored beside its frames."""
    if not settings.pooled:
        return [({}, {}) for _ in ids]
    return pool(dense, [transcripts[name] for name in ids], codec, settings.epsilon)
