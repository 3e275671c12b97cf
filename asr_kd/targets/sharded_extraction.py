"""Sharded extraction: a fixed plan of shards, each locked, made, written whole, hashed and marked done.

One engine for soft targets, hidden layers, n-best lists and pseudo-labels. It can be interrupted at any time and
resumed with the same call, and several workers may run it at once; the bytes of a shard depend on its utterances and
settings alone. Audio is read in batches by duration, ahead of the teacher, by threads: libsndfile decodes without
Python's global lock.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Generic, TypeVar

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import Exclusion, read_utterance
from asr_kd.errors import AudioError, StoppedEarly, TargetsError
from asr_kd.features.fbank import batches_by_duration
from asr_kd.targets.settings import ShardSettings, Variant
from asr_kd.targets.shard_manifest import QUARANTINE, Index, ShardEntry, ShardManifest
from asr_kd.targets.sharding import PlannedShard, Share
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import OutOfFold

Row = TypeVar("Row")


@dataclass(frozen=True)
class ShardMaker(Generic[Row]):
    """What an extraction computes: batches of utterances, a row for each utterance, and a file of rows."""

    batches: Callable[[Sequence[Utterance]], Sequence[tuple[Any, Sequence[Utterance]]]]
    """Returns batches, each with the model that labels it."""
    label: Callable[[Any, Sequence["Reading"]], Iterable[Row | str]]
    """Given a model and a batch that could be read, returns the row of each utterance, or why there is none."""
    pack: Callable[[PlannedShard, Mapping[str, Row]], tuple[bytes, ShardEntry]]
    """Given rows by utterance id, returns the content of the shard's file and its entry in the index."""
    settings: ShardSettings

    def rows(
        self,
        utterances: Sequence[Utterance],
        before_batch: Callable[[], None] = lambda: None,
        after_batch: Callable[[Sequence[Exclusion], float], None] = lambda quarantine, seconds: None,
    ) -> tuple[dict[str, Row], list[Exclusion]]:
        """Label utterances; return rows by id, and the utterances without one.

        Args:
            before_batch: called before each batch; may raise to stop.
            after_batch: called with the quarantine so far and the seconds of the batch; may raise to stop.
        """
        rows: dict[str, Row] = {}
        quarantine: list[Exclusion] = []
        planned = self.batches(utterances)
        batches = read_batches([batch for _, batch in planned], self.settings.variants, self.settings.readers)
        with closing(batches) as read:
            for (model, _), batch in zip(planned, read, strict=True):
                before_batch()
                usable = [item for item in batch if item.problem is None]
                quarantine += [Exclusion.of(item.utterance, item.problem) for item in batch if item.problem is not None]
                for item, row in zip(usable, self.label(model, usable) if usable else (), strict=True):
                    if isinstance(row, str):
                        quarantine.append(Exclusion.of(item.utterance, row))
                    else:
                        rows[item.utterance.id] = row
                after_batch(quarantine, sum(self.settings.seconds(item.utterance) for item in batch))
        return rows, quarantine


@dataclass(frozen=True)
class ShardReport(Generic[Index]):
    """Report of one worker's call, and the state of the whole extraction."""

    info: Index
    """The index, with the shards that are done, of all workers."""
    made: int
    """Shards written by this call."""
    skipped: int
    """Shards of its share that existed with the right hash."""
    busy: tuple[str, ...]
    """Owners of the shards of its share that this call left to others."""
    share: Share
    quarantine: tuple[Exclusion, ...]
    """Of all shards that are done."""

    @property
    def complete(self) -> bool:
        """Whether all shards are done, those of other workers too."""
        return self.info.complete

    def share_line(self) -> str:
        """Return a line with the shards of this worker and of all."""
        left = f", {len(self.busy)} left to others" if self.busy else ""
        return (
            f"share {self.share}: {self.made} shards made, {self.skipped} already complete{left}; "
            f"{len(self.info.shards)} of {self.info.planned_shards} done by all workers"
        )


@dataclass
class ShardedExtraction(Generic[Index]):
    """One worker's part of an extraction."""

    manifest: ShardManifest[Index]
    share: Share
    maker: ShardMaker[Any]
    should_stop: Callable[[], bool] = lambda: False
    progress: Callable[[float, float], None] = lambda done, total: None
    finished: set[int] = field(default_factory=set)
    """Shards that this worker made, or found and hashed."""
    busy: dict[int, str] = field(default_factory=dict)
    under_way: float = 0.0
    """Seconds of the shard that is being made."""

    def run(self, begin: Callable[[], None] = lambda: None) -> ShardReport[Index]:
        """Make what is missing of this worker's share, then write the index.

        Args:
            begin: writes what belongs beside the shards, once the store is found to be this extraction's.

        Raises:
            TargetsError: the store is another extraction's, too many utterances cannot be used, or it cannot be
                written; finished shards stay usable.
            StoppedEarly: `should_stop` returned true; finished shards are kept.
        """
        self.storage, self.plan = self.manifest.storage, self.manifest.plan
        self.num_utterances = sum(len(shard.utterances) for shard in self.plan)
        self.total_seconds = sum(shard.seconds for shard in self.plan)
        self.manifest.begin()
        begin()
        mine = [shard for shard in self.plan if shard.index in self.share]
        self.finished |= self.manifest.whole(mine)
        self._report_progress()
        made = 0
        for shard in mine:
            if shard.index not in self.finished:
                made += self._make_or_skip(shard)
                self._report_progress()
        # Damaged or outdated shards that others make again: they count once they are whole.
        self.manifest.whole([shard for shard in mine if shard.index in self.manifest.refused])
        info, quarantine = self.manifest.gather()
        self._refuse_too_many(len(quarantine), quarantine)
        self._report_progress()
        skipped = len(self.finished) - made
        return ShardReport(info, made, skipped, tuple(self.busy.values()), self.share, quarantine)

    def _make_or_skip(self, shard: PlannedShard) -> bool:
        """Make a shard unless another worker has locked or finished it; return whether it was made."""
        owner = self.storage.acquire(shard.name)
        if owner is not None:
            self.busy[shard.index] = f"{shard.name}: {owner}"
            return False
        try:
            made = not self.manifest.is_done(shard)  # another worker may have finished it in between
            if made:
                self._make(shard)
        finally:
            self.storage.release(shard.name)
        self.finished.add(shard.index)
        return made

    def _make(self, shard: PlannedShard) -> None:
        self.storage.clear(shard.name)  # left by a killed process: the shard is locked by this one now
        self.shard = shard
        try:
            rows, quarantine = self.maker.rows(shard.utterances, self.before_batch, self.after_batch)
            self.manifest.finish(shard, *self.maker.pack(shard, rows), quarantine)
        finally:
            self.under_way = 0.0

    def before_batch(self) -> None:
        """Stop here if that is requested."""
        if self.should_stop():
            self.manifest.gather()
            raise StoppedEarly(
                f"extraction stopped after {self._done_seconds():.0f} of {self.total_seconds:.0f} s of audio",
                where=str(self.storage),
                remedy="Run the same command again; finished shards are kept",
            )

    def after_batch(self, quarantine: Sequence[Exclusion], seconds: float) -> None:
        """Report progress, given the shard's quarantine so far and the seconds of audio just done."""
        self.manifest.look()
        self.under_way += seconds
        self._report_progress()
        before = sum(len(mark.quarantine) for index, mark in self.manifest.marks.items() if index != self.shard.index)
        self._refuse_too_many(before + len(quarantine), quarantine, unfinished=True)

    def _refuse_too_many(self, count: int, entries: Sequence[Exclusion], unfinished: bool = False) -> None:
        most = self.maker.settings.max_quarantine_share
        allowed = ceil(most * self.num_utterances)
        if count <= allowed:
            return
        if unfinished:
            self.manifest.gather(entries)
        worst = "; ".join(f"{entry.id}: {entry.reason}" for entry in entries[-3:])
        raise TargetsError(
            f"{count} of {self.num_utterances} utterances cannot be used, among them {worst}",
            expected=f"at most {allowed} (max_quarantine_share {most:g})",
            where=f"{self.storage}/{QUARANTINE}",
            remedy="Run `asr-kd check`, repair or remove the listed utterances, or raise max_quarantine_share",
        )

    def _done_seconds(self) -> float:
        """Return the seconds in finished shards, of all workers, and in the shard under way."""
        others = {i for i in self.manifest.marks if i not in self.share or i in self.busy}
        return sum(self.plan[index].seconds for index in self.finished | others) + self.under_way

    def _report_progress(self) -> None:
        self.progress(self._done_seconds(), self.total_seconds)


BATCHES_AHEAD = 3
"""Batches that are read, or being read, beside the one that is worked on."""


@dataclass(frozen=True)
class Reading:
    """Waveforms of an utterance, or why it cannot be read."""

    utterance: Utterance
    waveforms: tuple[Tensor, ...]
    """[S] in each variant, in their order; none when it could not be read."""
    problem: str | None = None


def read_batches(
    batches: Sequence[Sequence[Utterance]], variants: Sequence[Variant], readers: int
) -> Generator[list[Reading], None, None]:
    """Batch after batch, in the order given, each utterance in all variants, at most `BATCHES_AHEAD` in advance.

    `readers` are threads; 0 reads in between, in the caller's own.
    """
    if readers == 0:
        for batch in batches:
            yield [_read(utterance, variants) for utterance in batch]
        return
    waiting: deque[list[Future[Reading]]] = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        for batch in batches:
            waiting.append([pool.submit(_read, utterance, variants) for utterance in batch])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:  # also when the caller stops in the middle: nothing more is read
        pool.shutdown(wait=True, cancel_futures=True)


def _read(utterance: Utterance, variants: Sequence[Variant]) -> Reading:
    try:
        waveform = read_utterance(utterance)
    except AudioError as error:
        return Reading(utterance, (), str(error))
    return Reading(utterance, tuple(variant.apply(waveform, utterance.id) for variant in variants))


def plan_batches(utterances: Iterable[Utterance], batch_seconds: float) -> list[list[Utterance]]:
    """Return batches of similar durations, from short to long; see `batches_by_duration`."""
    ordered = sorted(utterances, key=lambda item: (item.duration, item.id))
    batches = batches_by_duration([item.duration for item in ordered], batch_seconds)
    return [[ordered[index] for index in batch] for batch in batches]


def batches_by_teacher(
    teacher: Teacher, utterances: Iterable[Utterance], batch_seconds: float
) -> list[tuple[Teacher, list[Utterance]]]:
    """Return batches as of `plan_batches`, each with the one teacher that labels it."""
    groups: dict[int, tuple[Teacher, list[Utterance]]] = {}
    for utterance in utterances:
        chosen = teacher.member_for(utterance.id) if isinstance(teacher, OutOfFold) else teacher
        groups.setdefault(id(chosen), (chosen, []))[1].append(utterance)
    return [(chosen, batch) for chosen, members in groups.values() for batch in plan_batches(members, batch_seconds)]
