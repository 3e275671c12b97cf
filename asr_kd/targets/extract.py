"""Extraction: a teacher labels a manifest once, shard by shard, resumable and in parallel without talk.

Each worker makes its share of the fixed plan; a shard is claimed, written whole, hashed and marked done, and
interrupted ones are made again with the same bytes. Knows teachers and stores, not students.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from pydantic import ValidationError

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.targets.fidelity import Fidelity, measure_fidelity
from asr_kd.targets.labelling import Labels, QuarantineEntry, label
from asr_kd.targets.layers import layer_widths
from asr_kd.targets.pooled import Transcripts, transcripts_sha256
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import shard_bytes
from asr_kd.targets.shard_manifest import ShardManifest, entry_of, writing
from asr_kd.targets.sharding import EVERYTHING, PlannedShard, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.store import QUARANTINE, Store, StoreInfo, TeacherIdentity, VocabularyIdentity
from asr_kd.targets.store_vocabulary import write_vocabulary
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.out_of_fold import OutOfFold

FIDELITY = "fidelity.json"


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction did and what there is now."""

    complete: bool
    """Whether all shards are done, those of other workers too."""
    made: int
    """Shards written by this call."""
    skipped: int
    """Shards of its share that were there already, their hash right."""
    busy: tuple[str, ...]
    """Who is making the shards of its share that this call left to others."""
    share: Share
    done: int
    """Shards that are done, whoever made them."""
    planned: int
    """Shards of all shares."""
    frames: int
    bytes_per_frame: float
    layer_bytes_per_frame: float
    """Of these, what hidden layers take."""
    quarantine: tuple[QuarantineEntry, ...]
    """Of all shards that are done."""
    fidelity: Fidelity | None
    """None while other workers are still busy."""

    def share_line(self) -> str:
        """What this worker did and what is done by all, in a line."""
        left = f", {len(self.busy)} left to others" if self.busy else ""
        return (
            f"share {self.share}: {self.made} shards made, {self.skipped} found whole{left}; "
            f"{self.done} of {self.planned} done by all workers"
        )


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
    """Label utterances into a store, going on where an earlier call stopped.

    Several processes may call this at once with the same arguments but for the share: each makes its own shards, and
    whoever comes last completes the store. Equal shares are safe too: each shard is made by one of them.

    Args:
        teacher: whose posteriors to keep.
        utterances: each id once; all of them, whatever the share.
        settings: what to keep.
        folder: of the store, made when missing: a path, or any URL that fsspec reaches.
        share: which shards this worker makes.
        should_stop: asked between batches.
        progress: told seconds of audio done and in all, over all variants and workers.
        transcripts: of all utterances, see `spell_transcripts`; needed with `settings.pooled` only.

    Raises:
        ValueError: `settings.pooled` without transcripts.
        TargetsError: the folder holds another teacher's, data's or settings' targets; too many unusable utterances;
            the teacher does not have the layers; or it cannot be written (disk full): finished shards stay usable.
        StoppedEarly: `should_stop` said so; finished shards are kept.
    """
    if not utterances:
        raise TargetsError("no utterances to extract", expected="a manifest with at least one", where=str(folder))
    if settings.pooled and transcripts is None:
        raise ValueError("posteriors are pooled over transcripts, and none are given")
    place, transcripts = open_storage(folder), transcripts or {}
    extraction = _Extraction(teacher, utterances, settings, place, share, should_stop, progress, transcripts)
    return extraction.run()


@dataclass
class _Extraction:
    teacher: Teacher
    utterances: Sequence[Utterance]
    settings: TargetSettings
    place: Storage
    share: Share
    should_stop: Callable[[], bool]
    progress: Callable[[float, float], None]
    transcripts: Transcripts
    finished: set[int] = field(default_factory=set)
    """Shards that this worker made, or found and hashed."""
    busy: dict[int, str] = field(default_factory=dict)
    under_way: float = 0.0
    """Seconds of the shard that is being made."""

    def run(self) -> ExtractionReport:
        self.plan = plan_shards(self.utterances, self.settings)
        self.total_seconds = sum(shard.seconds for shard in self.plan)
        self.ledger = ShardManifest(self.place, self._describe(), self.plan)
        self.ledger.begin()
        with writing(self.place):
            write_vocabulary(self.place, self.teacher.vocabulary)
        mine = [shard for shard in self.plan if shard.index in self.share]
        self.finished |= self.ledger.whole(mine)
        self._tell()
        made = 0
        for shard in mine:
            if shard.index not in self.finished:
                made += self._make_or_skip(shard)
                self._tell()
        info, quarantine = self.ledger.gather()
        self._refuse_too_many(len(quarantine), quarantine)
        self._tell()
        return ExtractionReport(
            complete=info.complete,
            made=made,
            skipped=len(self.finished) - made,
            busy=tuple(self.busy.values()),
            share=self.share,
            done=len(info.shards),
            planned=len(self.plan),
            frames=info.frames,
            bytes_per_frame=info.bytes_per_frame,
            layer_bytes_per_frame=info.layer_bytes_per_frame,
            quarantine=quarantine,
            fidelity=self._fidelity(info, quarantine, made) if info.complete else None,
        )

    def _fidelity(self, info: StoreInfo, quarantine: Sequence[QuarantineEntry], made: int) -> Fidelity:
        if not made and FIDELITY in self.place.sizes():
            try:
                return Fidelity.model_validate_json(self.place.read(FIDELITY))
            except (ValidationError, UnicodeDecodeError):
                pass  # measured again below
        # The sample is drawn here: to look for all utterances would open every shard.
        left_out = {entry.id for entry in quarantine}
        stored = [u for u in sorted(self.utterances, key=lambda item: item.id) if u.id not in left_out]
        sample = stored[:: max(1, len(stored) // self.settings.fidelity_utterances)]
        fidelity = measure_fidelity(self.teacher, Store(self.place, info), sample, self.settings)
        with writing(self.place):
            self.place.write_json(FIDELITY, fidelity.model_dump())
        return fidelity

    def _describe(self) -> StoreInfo:
        vocabulary = self.teacher.vocabulary
        return StoreInfo(
            teacher=_identity_of(self.teacher),
            vocabulary=VocabularyIdentity(size=len(vocabulary), sha256=vocabulary.sha256, blank_id=vocabulary.blank_id),
            frame_shift_ms=self.teacher.frame_shift_ms,
            frame_offset_ms=self.teacher.frame_offset_ms,
            features=dict(self.teacher.features),
            epsilon=self.settings.epsilon,
            max_entries=self.settings.max_entries,
            certain_blank=self.settings.certain_blank,
            levels=self.settings.levels,
            variants=self.settings.variants,
            perturbed={name: sound.model_dump(mode="json") for name, sound in self.settings.perturbed.items()},
            manifest_sha256=manifest_sha256(self.utterances),
            transcripts_sha256=transcripts_sha256(self.transcripts) if self.settings.pooled else None,
            layers=layer_widths(self.teacher, self.settings.layers),
            planned_shards=len(self.plan),
        )

    def _make_or_skip(self, shard: PlannedShard) -> bool:
        """Whether the shard was made here and now."""
        with writing(self.place):
            owner = self.place.acquire(shard.name)
        if owner is not None:
            self.busy[shard.index] = f"{shard.name}: {owner}"
            return False
        try:
            made = not self.ledger.is_done(shard)  # another worker may have finished it since we looked
            if made:
                self._make(shard)
        finally:
            self.place.release(shard.name)
        self.finished.add(shard.index)
        return made

    def _make(self, shard: PlannedShard) -> None:
        self.place.clear(shard.name)  # of a killed process: the shard is ours now
        self.shard = shard
        try:
            before, after = self._before_batch, self._after_batch
            labels = label(self.teacher, shard.utterances, self.settings, self.transcripts, before, after)
            content = shard_bytes(self.ledger.info.codec, labels.rows)
            self.ledger.finish(shard, content, entry_of(shard, content, labels.rows), labels.quarantine)
        finally:
            self.under_way = 0.0

    def _before_batch(self) -> None:
        if self.should_stop():
            self.ledger.gather()
            raise StoppedEarly(
                f"extraction stopped after {self._done_seconds():.0f} of {self.total_seconds:.0f} s of audio",
                where=str(self.place),
                remedy="Run the same command again; finished shards are kept",
            )

    def _after_batch(self, labels: Labels, seconds: float) -> None:
        self.place.hold(self.shard.name)
        self.ledger.look()
        self.under_way += seconds
        self._tell()
        before = sum(len(mark.quarantine) for index, mark in self.ledger.marks.items() if index != self.shard.index)
        self._refuse_too_many(before + len(labels.quarantine), labels.quarantine, unfinished=True)

    def _refuse_too_many(self, count: int, entries: Sequence[QuarantineEntry], unfinished: bool = False) -> None:
        allowed = ceil(self.settings.max_quarantine_share * len(self.utterances))
        if count <= allowed:
            return
        if unfinished:
            self.ledger.gather(entries)
        worst = "; ".join(f"{entry.id}: {entry.reason}" for entry in entries[-3:])
        raise TargetsError(
            f"{count} of {len(self.utterances)} utterances cannot be used, among them {worst}",
            expected=f"at most {allowed} (max_quarantine_share {self.settings.max_quarantine_share:g})",
            where=f"{self.place}/{QUARANTINE}",
            remedy="Run `asr-kd check`, mend or remove the listed utterances, or raise max_quarantine_share",
        )

    def _done_seconds(self) -> float:
        """What this worker has finished, what the marks of others say, and the shard under way."""
        others = {i for i in self.ledger.marks if i not in self.share or i in self.busy}
        return sum(self.plan[index].seconds for index in self.finished | others) + self.under_way

    def _tell(self) -> None:
        self.progress(self._done_seconds(), self.total_seconds)


def _identity_of(teacher: Teacher) -> TeacherIdentity:
    folds = tuple(member.sha256 for member in teacher.members) if isinstance(teacher, OutOfFold) else ()
    return TeacherIdentity(name=teacher.name, sha256=teacher.sha256, folds=folds)
