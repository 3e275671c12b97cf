"""Extraction: a teacher labels a manifest once, shard by shard, resumable and in parallel without talk.

Each shard of the fixed plan is claimed, written whole, hashed and marked done; interrupted ones are made again with
the same bytes. Knows teachers and stores, not students.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from pydantic import ValidationError

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import AsrKdError, StoppedEarly, TargetsError
from asr_kd.files import atomic_path, sha256_of_file, write_json, write_text
from asr_kd.targets.claims import acquire, guard, release
from asr_kd.targets.fidelity import Fidelity, measure_fidelity
from asr_kd.targets.labelling import Labels, QuarantineEntry, label
from asr_kd.targets.packing import Codec
from asr_kd.targets.plan import PlannedShard, manifest_sha256, plan_shards
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import ShardRow, shard_bytes
from asr_kd.targets.store import (
    EXTRACT_AGAIN,
    INDEX,
    QUARANTINE,
    ShardEntry,
    Store,
    StoreInfo,
    TeacherIdentity,
    VocabularyIdentity,
    read_info,
)
from asr_kd.teachers.base import Teacher

FIDELITY = "fidelity.json"


class DoneMark(Settings):
    """Beside each finished shard: what the index will say of it, and who was left out."""

    entry: ShardEntry
    quarantine: tuple[QuarantineEntry, ...]


@dataclass(frozen=True)
class ExtractionReport:
    """What an extraction did and what there is now."""

    complete: bool
    made: int
    """Shards written by this call."""
    skipped: int
    """Shards that were there already, their hash right."""
    busy: tuple[str, ...]
    """Who is making the shards that this call left to others."""
    frames: int
    bytes_per_frame: float
    quarantine: tuple[QuarantineEntry, ...]
    fidelity: Fidelity | None
    """None while other workers are still busy."""


def extract(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    folder: Path,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> ExtractionReport:
    """Label utterances into a store, going on where an earlier call stopped.

    Several processes may call this with the same arguments at once: each shard is made by one of them.

    Args:
        teacher: whose posteriors to keep.
        utterances: each id once.
        settings: what to keep.
        folder: of the store; made when missing.
        should_stop: asked between batches.
        progress: told seconds of audio done and in all, over all variants.

    Raises:
        TargetsError: the folder holds another teacher's, data's or settings' targets; too many unusable utterances;
            or it cannot be written (disk full): finished shards stay usable.
        StoppedEarly: `should_stop` said so; finished shards are kept.
    """
    if not utterances:
        raise TargetsError("no utterances to extract", expected="a manifest with at least one", where=folder)
    extraction = _Extraction(teacher, utterances, settings, folder, should_stop, progress)
    return extraction.run()


@dataclass
class _Extraction:
    teacher: Teacher
    utterances: Sequence[Utterance]
    settings: TargetSettings
    folder: Path
    should_stop: Callable[[], bool]
    progress: Callable[[float, float], None]
    done_seconds: float = 0.0
    quarantined_before: int = 0
    busy: list[str] = field(default_factory=list)

    def run(self) -> ExtractionReport:
        self.plan = plan_shards(self.utterances, self.settings)
        self.total_seconds = sum(shard.seconds for shard in self.plan)
        self.info = self._describe()
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with guard(self.folder):
                self._check_or_write_index()
        made = sum(self._make_or_skip(shard) for shard in self.plan)
        info, quarantine = self._write_index()
        return ExtractionReport(
            complete=info.complete,
            made=made,
            skipped=len(self.plan) - made - len(self.busy),
            busy=tuple(self.busy),
            frames=info.frames,
            bytes_per_frame=info.bytes_per_frame,
            quarantine=quarantine,
            fidelity=self._fidelity(info, made) if info.complete else None,
        )

    def _fidelity(self, info: StoreInfo, made: int) -> Fidelity:
        path = self.folder / FIDELITY
        if not made and path.is_file():
            try:
                return Fidelity.model_validate_json(path.read_text(encoding="utf-8"))
            except (ValidationError, UnicodeDecodeError):
                pass  # measured again below
        fidelity = measure_fidelity(self.teacher, Store(self.folder, info), self.utterances, self.settings)
        with _writing(self.folder):
            write_json(path, fidelity.model_dump())
        return fidelity

    def _describe(self) -> StoreInfo:
        vocabulary = self.teacher.vocabulary
        return StoreInfo(
            teacher=TeacherIdentity(name=self.teacher.name, sha256=self.teacher.sha256),
            vocabulary=VocabularyIdentity(size=len(vocabulary), sha256=vocabulary.sha256, blank_id=vocabulary.blank_id),
            frame_shift_ms=self.teacher.frame_shift_ms,
            features=dict(self.teacher.features),
            epsilon=self.settings.epsilon,
            max_entries=self.settings.max_entries,
            certain_blank=self.settings.certain_blank,
            floor=Codec.floor,
            variants=self.settings.variants,
            manifest_sha256=manifest_sha256(self.utterances),
            planned_shards=len(self.plan),
        )

    def _check_or_write_index(self) -> None:
        if not (self.folder / INDEX).exists():
            write_json(self.folder / INDEX, self.info.model_dump())
            return
        found, ours = (info.model_dump(mode="json") for info in (read_info(self.folder), self.info))
        differing = [name for name in ours if name != "shards" and found[name] != ours[name]]
        if differing:
            raise TargetsError(
                "holds targets that differ in "
                + ", ".join(f"{name} ({found[name]!r} there, {ours[name]!r} here)" for name in differing),
                where=self.folder,
                expected="the same teacher, manifest and settings as the extraction that began it",
                remedy=EXTRACT_AGAIN,
            )

    def _make_or_skip(self, shard: PlannedShard) -> bool:
        """Whether the shard was made here and now."""
        if not self._is_done(shard):
            claim = self.folder / f"{shard.name}.claim"
            with _writing(self.folder):
                owner = acquire(claim)
            if owner is not None:
                self.busy.append(f"{shard.name}: {owner}")
                return False
            try:
                if not self._is_done(shard):  # another worker may have finished it while we looked
                    self._make(shard)
                    return True
            finally:
                release(claim)
        self.done_seconds += shard.seconds
        self.progress(self.done_seconds, self.total_seconds)
        return False

    def _make(self, shard: PlannedShard) -> None:
        for leftover in self.folder.glob(f".{shard.name}.*.partial"):  # of a killed process: the claim is ours now
            leftover.unlink(missing_ok=True)
        self.quarantined_before = sum(len(mark.quarantine) for mark in self._marks().values())
        labels = label(
            self.teacher, shard.utterances, self.settings, self.info.codec, self._before_batch, self._after_batch
        )
        content = shard_bytes(self.info.codec, labels.rows)
        path = self.folder / f"{shard.name}.safetensors"
        with _writing(self.folder):
            with atomic_path(path) as partial:
                partial.write_bytes(content)
            entry = _entry(shard, path, labels.rows)
            mark = DoneMark(entry=entry, quarantine=tuple(sorted(labels.quarantine, key=lambda item: item.id)))
            write_json(self.folder / f"{shard.name}.json", mark.model_dump())
        self._write_index()

    def _before_batch(self) -> None:
        if self.should_stop():
            raise StoppedEarly(
                f"extraction stopped after {self.done_seconds:.0f} of {self.total_seconds:.0f} s of audio",
                where=self.folder,
                remedy="Run the same command again; finished shards are kept",
            )

    def _after_batch(self, labels: Labels, seconds: float) -> None:
        self.done_seconds += seconds
        self.progress(self.done_seconds, self.total_seconds)
        count = self.quarantined_before + len(labels.quarantine)
        allowed = ceil(self.settings.max_quarantine_share * len(self.utterances))
        if count > allowed:
            self._write_index(labels.quarantine)
            worst = "; ".join(f"{entry.id}: {entry.reason}" for entry in labels.quarantine[-3:])
            raise TargetsError(
                f"{count} of {len(self.utterances)} utterances cannot be used, among them {worst}",
                expected=f"at most {allowed} (max_quarantine_share {self.settings.max_quarantine_share:g})",
                where=self.folder / QUARANTINE,
                remedy="Run `asr-kd check`, mend or remove the listed utterances, or raise max_quarantine_share",
            )

    def _is_done(self, shard: PlannedShard) -> bool:
        mark = self._mark(shard)
        path = self.folder / f"{shard.name}.safetensors"
        return mark is not None and path.is_file() and sha256_of_file(path) == mark.entry.sha256

    def _mark(self, shard: PlannedShard) -> DoneMark | None:
        try:
            text = (self.folder / f"{shard.name}.json").read_text(encoding="utf-8")
            return DoneMark.model_validate_json(text)
        except (FileNotFoundError, ValidationError, UnicodeDecodeError):
            return None  # not done, or damaged: it is made again

    def _marks(self) -> dict[int, DoneMark]:
        found = {shard.index: self._mark(shard) for shard in self.plan}
        return {index: mark for index, mark in found.items() if mark is not None}

    def _write_index(self, unfinished: Sequence[QuarantineEntry] = ()) -> tuple[StoreInfo, tuple[QuarantineEntry, ...]]:
        """Gather the done marks into the index, under the guard: whoever comes last sees all of them."""
        with _writing(self.folder), guard(self.folder):
            marks = self._marks().values()
            quarantine = tuple(entry for mark in marks for entry in mark.quarantine) + tuple(unfinished)
            info = self.info.model_copy(update={"shards": tuple(mark.entry for mark in marks)})
            write_text(self.folder / QUARANTINE, "".join(entry.model_dump_json() + "\n" for entry in quarantine))
            write_json(self.folder / INDEX, info.model_dump())
        return info, quarantine


def _entry(shard: PlannedShard, path: Path, rows: dict[str, list[ShardRow]]) -> ShardEntry:
    packed = [row.packed for variants in rows.values() for row in variants]
    certain = sum(int(item.runs.sum()) for item in packed)
    written = sum(int((item.events > 0).sum()) for item in packed)
    return ShardEntry(
        file=path.name,
        sha256=sha256_of_file(path),
        num_bytes=path.stat().st_size,
        first_id=shard.utterances[0].id,
        utterances=len(rows),
        frames=written + certain,
        entries=sum(len(item.tokens) for item in packed) + certain,
        certain_frames=certain,
    )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn trouble with the disk into what a user of soft targets can act on."""
    try:
        yield
    except (OSError, AsrKdError) as error:
        if isinstance(error, AsrKdError) and type(error) is not AsrKdError:
            raise  # says more than that a file could not be written
        raise TargetsError(
            error.found if isinstance(error, AsrKdError) else f"cannot be written ({error.strerror or error})",
            where=(error.where if isinstance(error, AsrKdError) else "") or folder,
            expected="a folder that can be written, with space left",
            remedy="Free some space, then run the same command again: finished shards are kept and usable",
        ) from error
