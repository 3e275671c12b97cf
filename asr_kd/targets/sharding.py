"""Plan of an extraction: the shards of a manifest, and each worker's share of them.

Both are fixed in advance, so workers need no communication.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError
from asr_kd.files import sha256_of
from asr_kd.targets.settings import ShardSettings


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


@dataclass(frozen=True)
class Share:
    """The part of the shards that one of several workers makes: those whose number leaves `index` modulo `count`.

    Raises:
        ValueError: not 0 ≤ index < count.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"share {self.index} of {self.count}: the first is 0, the last {self.count - 1}")

    def __contains__(self, shard: int) -> bool:
        return shard % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"

    def split(self, index: int, count: int) -> "Share":
        """Return part `index` of `count` of this share, for example for a process of a Slurm task."""
        return Share(self.index + self.count * index, self.count * count)

    @staticmethod
    def parse(text: str) -> "Share":
        """Parse ``2/8``: the second of eight workers.

        Raises:
            TargetsError: not of this form, or no such part.
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise TargetsError(
                f"the share {text!r} cannot be read", expected="a part and their number, from 1/8 to 8/8 for eight"
            )
        return Share(int(found[1]) - 1, int(found[2]))


EVERYTHING = Share(0, 1)


def slurm_share(environment: Mapping[str, str] = os.environ) -> Share:
    """The share of this task of a Slurm job array (``sbatch --array=0-7``); everything where there is none.

    Raises:
        TargetsError: the array leaves numbers out (``--array=0,3,4``), so that some shards would have no worker.
    """
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return EVERYTHING
    names = ("ID", "COUNT", "MIN", "MAX", "STEP")
    given = {name: environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in names}
    try:
        task, first = int(given["ID"]), int(given["MIN"] or 0)
        count, step = int(given["COUNT"]), int(given["STEP"] or 1)
        last = int(given["MAX"] or first + step * (count - 1))
        index, rest = divmod(task - first, step)
        if rest or last != first + step * (count - 1):
            raise ValueError("numbers are left out")
        return Share(index, count)
    except (ValueError, ZeroDivisionError) as error:
        shown = ", ".join(f"{name} {value or 'not set'}" for name, value in given.items())
        raise TargetsError(
            f"the Slurm array does not divide the work into shares ({shown})",
            expected="task numbers without gaps, such as --array=0-7",
            where="SLURM_ARRAY_TASK_…",
            remedy="Submit the array without gaps, or name the share: --share 2/8",
        ) from error


def plan_shards(utterances: Iterable[Utterance], settings: ShardSettings) -> list[PlannedShard]:
    """Cut the sorted utterances into shards of at least `shard_seconds` of audio, but for the last one.

    Raises:
        TargetsError: there are no utterances, or two with the same id.
    """
    shards: list[PlannedShard] = []
    pending: list[Utterance] = []
    seconds = 0.0
    ordered = sorted(utterances, key=lambda item: item.id)
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise TargetsError(
                f"two utterances have the id {one.id!r}: {one.audio} and {other.audio}",
                expected="each id once: targets are stored by id",
                remedy="Give one of them another id in its manifest",
            )
    for utterance in ordered:
        pending.append(utterance)
        seconds += settings.seconds(utterance)
        if seconds >= settings.shard_seconds:
            shards.append(PlannedShard(len(shards), tuple(pending), seconds))
            pending, seconds = [], 0.0
    if pending:
        shards.append(PlannedShard(len(shards), tuple(pending), seconds))
    if not shards:
        raise TargetsError("no utterances to extract", expected="a manifest with at least one")
    return shards


def manifest_sha256(utterances: Iterable[Utterance]) -> str:
    """Identity of a set of utterances for soft targets: their ids, durations and starts; transcripts may change."""
    identities = (
        (item.id, round(item.duration, 4), *((round(item.start, 4),) if item.start else ())) for item in utterances
    )
    return sha256_of(sorted(identities))
