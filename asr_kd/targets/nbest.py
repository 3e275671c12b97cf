"""A teacher's own n-best: heard, searched without a language model, and kept as text, part by part.

Resumes like the extraction of soft targets, with its plan, claims and quarantine. A teacher of characters teaches a
student of subwords this way, which frame posteriors cannot. Knows teachers, not students.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.decoding.flashlight import NbestDecoder
from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.targets.hypotheses import (
    HYPOTHESES_INDEX,
    MAKE_AGAIN,
    HypothesesInfo,
    HypothesesSource,
    Hypothesis,
    PartEntry,
    distinct,
    part_of,
    read_hypotheses_info,
)
from asr_kd.targets.labelling import QuarantineEntry, listen
from asr_kd.targets.reading import Reading, read_batches
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard_manifest import writing
from asr_kd.targets.sharding import EVERYTHING, PlannedShard, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.store import QUARANTINE
from asr_kd.targets.teacher_assignment import batches_by_teacher
from asr_kd.targets.variants import Variant
from asr_kd.teachers.base import Teacher
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import WORD_SEPARATOR


class NbestSettings(Settings):
    """What to keep of a teacher's hypotheses; the last four only cut the work."""

    count: int = Field(default=8, ge=1, le=100)
    """Different texts of an utterance that are kept."""
    beam_size: int = Field(default=20, ge=1, le=1000)
    """Prefixes that the search follows."""
    shard_seconds: float = Field(default=1800.0, gt=0.0)
    """Audio a part: what an interruption can cost."""
    batch_seconds: float = Field(default=60.0, gt=0.0)
    """Audio the teacher hears at once."""
    readers: int = Field(default=4, ge=0, le=64)
    """Threads that read audio ahead."""
    max_quarantine_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the utterances that may be unusable before extraction stops."""

    @model_validator(mode="after")
    def _beam_holds_them(self) -> "NbestSettings":
        if self.beam_size < self.count:
            raise ValueError(f"beam_size {self.beam_size} cannot give count {self.count} hypotheses")
        return self


class PartMark(Settings):
    """Beside each finished part: what the index will say of it, and who was left out."""

    entry: PartEntry
    quarantine: tuple[QuarantineEntry, ...]


@dataclass(frozen=True)
class NbestReport:
    """What an extraction did and what there is now."""

    complete: bool
    made: int
    """Parts written by this call."""
    busy: tuple[str, ...]
    """Who is making the parts that this call left to others."""
    utterances: int
    """With hypotheses, in all finished parts."""
    quarantine: tuple[QuarantineEntry, ...]


def extract_hypotheses(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: NbestSettings,
    folder: Path | str,
    normalizer: Normalizer,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> NbestReport:
    """Keep a teacher's n-best of each utterance, going on where an earlier call stopped.

    Several processes may call this with the same arguments at once: each part is made by one of them.

    Args:
        teacher: what listens; its vocabulary is any.
        utterances: each id once; transcripts are not looked at.
        settings: what to keep.
        folder: of the hypotheses, a path or a URL; made when missing.
        normalizer: the student's; hypotheses are written under it.
        share: the parts that this call makes.
        should_stop: asked between batches.
        progress: told seconds of audio done and in all.

    Raises:
        TargetsError: the folder holds another teacher's, data's or settings' hypotheses, too many unusable
            utterances, or it cannot be written.
        StoppedEarly: `should_stop` said so; finished parts are kept.
        MissingExtraError: flashlight-text is not installed.
    """
    if not utterances:
        raise TargetsError("no utterances", expected="a manifest with at least one", where=str(folder))
    extraction = _Extraction(
        teacher, utterances, settings, open_storage(folder), normalizer, share, should_stop, progress
    )
    return extraction.run()


@dataclass
class _Extraction:
    teacher: Teacher
    utterances: Sequence[Utterance]
    settings: NbestSettings
    place: Storage
    normalizer: Normalizer
    share: Share
    should_stop: Callable[[], bool]
    progress: Callable[[float, float], None]
    done_seconds: float = 0.0
    marks: dict[int, PartMark] = field(default_factory=dict)

    def run(self) -> NbestReport:
        # Hypotheses are text: they hold at every speed at which the audio is played.
        cut = TargetSettings(speeds=(1.0,), shard_seconds=self.settings.shard_seconds)
        self.plan = plan_shards(self.utterances, cut)
        vocabulary = self.teacher.vocabulary
        separator = vocabulary.symbols.index(WORD_SEPARATOR) if WORD_SEPARATOR in vocabulary.symbols else None
        self.decoder = NbestDecoder(len(vocabulary), vocabulary.blank_id, separator, beam_size=self.settings.beam_size)
        self._begin()
        made, busy = 0, []
        for part in (part for part in self.plan if part.index in self.share):
            owner = self._make_or_skip(part)
            made += owner == ""
            busy += [owner] if owner else []
        info = self._gather()
        marks = [mark for _, mark in sorted(self.marks.items())]
        return NbestReport(
            complete=info.complete,
            made=made,
            busy=tuple(busy),
            utterances=sum(part.utterances for part in info.parts),
            quarantine=tuple(entry for mark in marks for entry in mark.quarantine),
        )

    def _begin(self) -> None:
        ours = self._info()
        with writing(self.place), self.place.guard():
            if HYPOTHESES_INDEX not in self.place.sizes():
                self.place.write_json(HYPOTHESES_INDEX, ours.model_dump(mode="json"))
                return
        found = read_hypotheses_info(self.place).model_dump(mode="json")
        differing = [
            f"{name} ({found[name]!r} there, {value!r} here)"
            for name, value in ours.model_dump(mode="json").items()
            if name != "parts" and found[name] != value
        ]
        if differing:
            raise TargetsError(
                "holds hypotheses that differ in " + ", ".join(differing),
                where=str(self.place),
                expected="the same teacher, manifest and settings as the extraction that began it",
                remedy=MAKE_AGAIN,
            )

    def _info(self) -> HypothesesInfo:
        return HypothesesInfo(
            source=HypothesesSource(kind="teacher", name=self.teacher.name, sha256=self.teacher.sha256),
            normalizer=self.normalizer,
            manifest_sha256=manifest_sha256(self.utterances),
            settings=self.settings.model_dump(include={"count", "beam_size", "shard_seconds"}),
            planned_parts=len(self.plan),
            parts=tuple(mark.entry for _, mark in sorted(self.marks.items())),
        )

    def _make_or_skip(self, part: PlannedShard) -> str | None:
        """Empty when the part was made here and now, None when it was there, else who is making it."""
        name = _name(part)
        if not self._is_done(part):
            with writing(self.place):
                owner = self.place.acquire(name)
            if owner is not None:
                return f"{name}: {owner}"
            try:
                if not self._is_done(part):  # another worker may have finished it while we looked
                    self._make(part)
                    return ""
            finally:
                self.place.release(name)
        self._advance(part.seconds)
        return None

    def _is_done(self, part: PlannedShard) -> bool:
        mark: PartMark | None
        try:
            mark = PartMark.model_validate_json(self.place.read(f"{_name(part)}.json"))
        except (FileNotFoundError, ValidationError, UnicodeDecodeError):
            mark = None  # not done, or damaged: it is made again
        if mark is None or self.place.sha256(mark.entry.file) != mark.entry.sha256:
            self.marks.pop(part.index, None)
            return False
        self.marks[part.index] = mark
        return True

    def _make(self, part: PlannedShard) -> None:
        found: dict[str, list[Hypothesis]] = {}
        quarantine: list[QuarantineEntry] = []
        planned = batches_by_teacher(self.teacher, part.utterances, self.settings.batch_seconds)
        batches = [batch for _, batch in planned]
        with closing(read_batches(batches, (Variant(1.0),), self.settings.readers)) as read:
            for (listener, _), batch in zip(planned, read, strict=True):
                if self.should_stop():
                    raise StoppedEarly(
                        f"stopped after {self.done_seconds:.0f} s of audio",
                        where=str(self.place),
                        remedy="Run the same command again; finished parts are kept",
                    )
                self._forward(listener, batch, found, quarantine)
                self._check_quarantine(quarantine)
                self._advance(sum(item.utterance.duration for item in batch))
        content = part_of(sorted(found.items()))
        with writing(self.place):
            file = f"{_name(part)}.jsonl"
            self.place.clear(file)
            self.place.write(file, content)
            entry = PartEntry(file=file, sha256=self.place.sha256(file) or "", utterances=len(found))
            mark = PartMark(entry=entry, quarantine=tuple(sorted(quarantine, key=lambda item: item.id)))
            self.place.write_json(f"{_name(part)}.json", mark.model_dump())
        self.marks[part.index] = mark

    def _forward(
        self,
        teacher: Teacher,
        batch: Sequence[Reading],
        found: dict[str, list[Hypothesis]],
        quarantine: list[QuarantineEntry],
    ) -> None:
        def leave_out(item: Reading, reason: str) -> None:
            utterance = item.utterance
            quarantine.append(QuarantineEntry(id=utterance.id, path=str(utterance.audio), reason=reason))

        heard = [item for item in batch if item.problem is None]
        for item in batch:
            if item.problem is not None:
                leave_out(item, item.problem)
        if not heard:
            return
        dense = listen(teacher, [item.waveforms[0] for item in heard])
        searched = self.decoder.decode(dense.log_probs, dense.lens)
        for item, frames, nbest in zip(heard, dense.lens.tolist(), searched, strict=True):
            if frames == 0:
                leave_out(item, f"too short for the teacher: no frame of {self.teacher.frame_shift_ms:g} ms")
            elif not nbest:
                leave_out(item, "the teacher's posteriors are not numbers")
            else:
                decode = self.teacher.vocabulary.decode
                texts = [Hypothesis(normalize(decode(tokens), self.normalizer), score) for tokens, score in nbest]
                found[item.utterance.id] = distinct(texts, self.settings.count)

    def _check_quarantine(self, unfinished: Sequence[QuarantineEntry]) -> None:
        entries = [*(entry for mark in self.marks.values() for entry in mark.quarantine), *unfinished]
        allowed = ceil(self.settings.max_quarantine_share * len(self.utterances))
        if len(entries) > allowed:
            worst = "; ".join(f"{entry.id}: {entry.reason}" for entry in entries[-3:])
            raise TargetsError(
                f"{len(entries)} of {len(self.utterances)} utterances cannot be used, among them {worst}",
                expected=f"at most {allowed} (max_quarantine_share {self.settings.max_quarantine_share:g})",
                where=str(self.place),
                remedy="Run `asr-kd check`, mend or remove such utterances, or raise max_quarantine_share",
            )

    def _gather(self) -> HypothesesInfo:
        with writing(self.place), self.place.guard():
            for part in self.plan:
                self._is_done(part)  # also those of other workers
            info = self._info()
            entries = [entry for _, mark in sorted(self.marks.items()) for entry in mark.quarantine]
            self.place.write(QUARANTINE, "".join(f"{entry.model_dump_json()}\n" for entry in entries).encode())
            self.place.write_json(HYPOTHESES_INDEX, info.model_dump(mode="json"))
        return info

    def _advance(self, seconds: float) -> None:
        self.done_seconds += seconds
        self.progress(self.done_seconds, sum(part.seconds for part in self.plan if part.index in self.share))


def _name(part: PlannedShard) -> str:
    return f"nbest-{part.index:05d}"
