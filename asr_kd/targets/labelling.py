"""From utterances to packed targets: audio read, perturbed, heard by the teacher, its nucleus kept.

An utterance that cannot be used becomes a quarantine entry with the reason. Knows nothing of shards or workers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError
from asr_kd.features.augment import speed_perturb
from asr_kd.posteriors import DensePosteriors, keep_nucleus
from asr_kd.targets.packing import Codec
from asr_kd.targets.plan import plan_batches, variant_seconds
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import ShardRow
from asr_kd.teachers.base import Teacher


class QuarantineEntry(Settings):
    """An utterance that could not be used."""

    id: str
    path: str
    reason: str


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
    codec: Codec,
    before_batch: Callable[[], None],
    after_batch: Callable[[Labels, float], None],
) -> Labels:
    """Label utterances in all variants; the result depends on the arguments alone.

    Args:
        teacher: what listens.
        utterances: those of a shard; cut into batches here.
        settings: speeds, nucleus and batch size.
        codec: how frames are packed.
        before_batch: may raise to stop.
        after_batch: told what there is so far and the seconds just done; may raise to stop.
    """
    labels = Labels()
    for batch in plan_batches(utterances, settings.batch_seconds):
        before_batch()
        waveforms = _read(batch, labels.quarantine)
        heard = [utterance for utterance in batch if utterance.id in waveforms]
        for speed in settings.speeds:
            for utterance, row in _label_variant(teacher, heard, waveforms, speed, settings, codec):
                if isinstance(row, str):
                    labels.quarantine.append(QuarantineEntry(id=utterance.id, path=str(utterance.audio), reason=row))
                else:
                    labels.rows.setdefault(utterance.id, []).append(row)
            unusable = {entry.id for entry in labels.quarantine}
            heard = [utterance for utterance in heard if utterance.id not in unusable]
        after_batch(labels, sum(variant_seconds(utterance, settings) for utterance in batch))
    for entry in labels.quarantine:  # all of its variants or none
        labels.rows.pop(entry.id, None)
    return labels


def listen(teacher: Teacher, waveforms: Sequence[Tensor]) -> DensePosteriors:
    """The teacher's posteriors of waveforms [S] each."""
    lens = torch.tensor([waveform.shape[0] for waveform in waveforms])
    return teacher.log_probs(pad_sequence(list(waveforms), batch_first=True), lens)


def _read(batch: Sequence[Utterance], quarantine: list[QuarantineEntry]) -> dict[str, Tensor]:
    waveforms: dict[str, Tensor] = {}
    for utterance in batch:
        try:
            waveforms[utterance.id] = read_utterance(utterance)
        except AudioError as error:
            quarantine.append(QuarantineEntry(id=utterance.id, path=str(utterance.audio), reason=str(error)))
    return waveforms


def _label_variant(
    teacher: Teacher,
    heard: Sequence[Utterance],
    waveforms: dict[str, Tensor],
    speed: float,
    settings: TargetSettings,
    codec: Codec,
) -> Iterator[tuple[Utterance, ShardRow | str]]:
    """For each utterance its row, or why there is none."""
    if not heard:
        return
    dense = listen(teacher, [speed_perturb(waveforms[utterance.id], speed) for utterance in heard])
    nucleus = keep_nucleus(dense.log_probs.float().exp(), settings.epsilon, settings.max_entries)
    finite = dense.log_probs.isnan().any(-1).logical_not().cpu()  # −inf is the logarithm of 0, and fine
    tokens, probs = (part.cpu().numpy() for part in nucleus)
    for index, (utterance, num_frames) in enumerate(zip(heard, dense.lens.tolist(), strict=True)):
        if num_frames == 0:
            yield utterance, f"too short for the teacher at speed {speed:g}: no frame of {teacher.frame_shift_ms:g} ms"
        elif not finite[index, :num_frames].all():
            yield utterance, f"the teacher's posteriors are not numbers at speed {speed:g}"
        else:
            yield utterance, ShardRow(codec.pack(tokens[index, :num_frames], probs[index, :num_frames]))
