"""Which utterances go into which shard and which batch: fixed by the manifest alone, so workers need not talk.

Knows durations and ids, nothing of audio or teachers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr_kd.corpora.manifest import Utterance
from asr_kd.files import sha256_of
from asr_kd.targets.settings import TargetSettings


@dataclass(frozen=True)
class PlannedShard:
    """A consecutive stretch of the utterances, sorted by id."""

    index: int
    utterances: tuple[Utterance, ...]
    seconds: float
    """Audio of all variants."""

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return f"shard-{self.index:05d}"


def plan_shards(utterances: Iterable[Utterance], settings: TargetSettings) -> list[PlannedShard]:
    """Cut the sorted utterances into shards of at least `shard_seconds` of audio, but for the last one."""
    shards: list[PlannedShard] = []
    pending: list[Utterance] = []
    seconds = 0.0
    for utterance in sorted(utterances, key=lambda item: item.id):
        pending.append(utterance)
        seconds += variant_seconds(utterance, settings)
        if seconds >= settings.shard_seconds:
            shards.append(PlannedShard(len(shards), tuple(pending), seconds))
            pending, seconds = [], 0.0
    if pending:
        shards.append(PlannedShard(len(shards), tuple(pending), seconds))
    return shards


def plan_batches(utterances: Sequence[Utterance], batch_seconds: float) -> list[list[Utterance]]:
    """Batches of similar lengths, padding counted; an utterance longer than `batch_seconds` is one of its own."""
    batches: list[list[Utterance]] = []
    for utterance in sorted(utterances, key=lambda item: (item.duration, item.id)):
        # Sorted by rising duration: the newest is the longest, and all are padded to it.
        if batches and (len(batches[-1]) + 1) * utterance.duration <= batch_seconds:
            batches[-1].append(utterance)
        else:
            batches.append([utterance])
    return batches


def variant_seconds(utterance: Utterance, settings: TargetSettings) -> float:
    """Audio of an utterance over all its variants."""
    return sum(utterance.duration / speed for speed in settings.speeds)


def manifest_sha256(utterances: Iterable[Utterance]) -> str:
    """Identity of a set of utterances for soft targets: their ids and durations; transcripts may change."""
    return sha256_of(sorted((utterance.id, round(utterance.duration, 4)) for utterance in utterances))
