"""The manifest of finished shards: a mark beside each, gathered into the index and the quarantine list of a store.

Workers do not communicate: each writes its marks, and `gather` reads the marks of all. Soft targets, n-best lists and
pseudo-labels share it; subclasses of `StoreIndex` hold what differs.
"""

import bisect
import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, SerializeAsAny

from asr_kd.config import Settings, parse_settings
from asr_kd.corpora.fingerprint import audio_sha256
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import Exclusion
from asr_kd.errors import RecipeError, TargetsError
from asr_kd.files import json_lines, json_text, parse_json
from asr_kd.targets.sharding import PlannedShard
from asr_kd.targets.storage import Storage, open_storage

QUARANTINE = "quarantine.jsonl"
LOOK_SECONDS = 30.0
"""Interval at which a worker reads the marks of the others and writes the index."""
FILES_AT_ONCE = 8
"""Marks and shards are read in parallel: there may be thousands on remote storage."""


class ShardEntry(Settings):
    """A finished shard in the index of a store."""

    file: str = Field(pattern=r"^shard-\d{5,}\.(safetensors|jsonl)$")
    sha256: str
    utterances: int
    first_id: str = ""
    """First planned utterance: shards are consecutive stretches of the sorted ids."""
    audio_sha256: str | None = None
    """Identity of the planned utterances' audio; None: not stated."""


class StoreIndex(Settings):
    """Content of a store's index; each kind of store is a subclass, with the file names and words of its messages."""

    index: ClassVar[str]
    """Name of the index."""
    shard_suffix: ClassVar[str] = ".jsonl"
    entry: ClassVar[type[ShardEntry]] = ShardEntry
    contents: ClassVar[str]
    """What the store holds: "soft targets", "hypotheses"."""
    made_by: ClassVar[str]
    """The command that makes such a store."""
    make_again: ClassVar[str]
    """The remedy for a store that is damaged or of other settings."""
    differs_freely: ClassVar[frozenset[str]] = frozenset({"shards"})
    """Names of fields that two extractions of the same results may differ in."""

    planned_shards: int
    shards: tuple[ShardEntry, ...] = ()
    """Those that are done."""

    @property
    def complete(self) -> bool:
        """Whether every planned shard is done."""
        return len(self.shards) == self.planned_shards

    def to_bytes(self) -> bytes:
        """Return the content of the file."""
        return json_text(self.model_dump(mode="json")).encode()

    @classmethod
    def read(cls, folder: Path | str | Storage, partial: bool = True) -> Self:
        """Read the index of a store; `partial` also accepts a store whose shards are not all done.

        Raises:
            TargetsError: not such a store, of another version, damaged, or unfinished.
        """
        storage = open_storage(folder)
        where, again = f"{storage}/{cls.index}", cls.make_again
        format_, version = (cls.model_fields[name].default for name in ("format", "version"))
        try:
            data = parse_json(storage.read(cls.index))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise TargetsError(
                f"no {cls.contents} here",
                where=str(storage),
                expected=f"a folder with {cls.index}",
                remedy=f"Run {cls.made_by} first",
            ) from error
        except (OSError, ValueError) as error:
            raise TargetsError(
                f"cannot be read ({error})", where=where, expected="what was written", remedy=again
            ) from error
        if data.get("format") != format_:
            raise TargetsError(f"does not describe {cls.contents}", where=where, remedy=again)
        if data.get("version") != version:
            raise TargetsError(
                f"format version {data.get('version')!r}", expected=f"version {version}", where=where, remedy=again
            )
        try:
            info = parse_settings(cls, data, where)
        except RecipeError as error:
            raise TargetsError(f"the description is damaged: {error.found}", where=where, remedy=again) from error
        if not partial and not info.complete:
            raise TargetsError(
                f"unfinished: {len(info.shards)} of {info.planned_shards} shards",
                where=str(storage),
                remedy="Run the same command again; it resumes where it stopped",
            )
        return info


Index = TypeVar("Index", bound=StoreIndex)


class DoneMark(Settings):
    """Beside each finished shard: its entry in the index, and the utterances that were left out."""

    entry: SerializeAsAny[ShardEntry]
    quarantine: tuple[Exclusion, ...]


class ShardManifest(Generic[Index]):
    """The done marks of one extraction, this worker's and the others'; `plan` has the shards of all."""

    def __init__(self, storage: Storage, info: Index, plan: Sequence[PlannedShard]) -> None:
        self.storage, self.plan = storage, plan
        self.info = info.model_copy(update={"planned_shards": len(plan)})
        self.marks: dict[int, DoneMark] = {}
        """By number of the shard, as last read."""
        self.refused: set[int] = set()
        """Shards with a mark whose file is damaged or of other audio: not done until `is_done` or `finish` finds so."""
        self._looked = self._gathered = float("-inf")

    def begin(self) -> None:
        """Create the index, or check that it belongs to this extraction.

        Raises:
            TargetsError: it holds another teacher's, data's or settings' targets, or cannot be written.
        """
        with self.storage.guard():
            if self.info.index in self.storage.sizes():
                self._refuse_another()
            else:
                self.storage.write(self.info.index, self.info.to_bytes())
            self.look(at_once=True)

    def is_done(self, shard: PlannedShard) -> bool:
        """Return whether a shard exists, its SHA-256 is right, and it is of the present audio."""
        mark = self._read(shard)
        done = (
            mark is not None
            and self.storage.sha256(f"{shard.name}{self.info.shard_suffix}") == mark.entry.sha256
            and mark.entry.audio_sha256 in (None, audio_sha256(shard.utterances))
        )
        if mark is not None and done:
            self.marks[shard.index] = mark
            self.refused.discard(shard.index)
        else:
            self.marks.pop(shard.index, None)
            if mark is not None:
                self.refused.add(shard.index)
        return done

    def whole(self, shards: Sequence[PlannedShard]) -> set[int]:
        """Numbers of the shards that are done, see `is_done`; several are hashed at once."""
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return {shard.index for shard, done in zip(shards, pool.map(self.is_done, shards), strict=True) if done}

    def finish(self, shard: PlannedShard, content: bytes, entry: ShardEntry, quarantine: Sequence[Exclusion]) -> None:
        """Write a shard, then its mark.

        Raises:
            TargetsError: it cannot be written; what was finished before stays usable.
        """
        mark = DoneMark(entry=entry, quarantine=tuple(sorted(quarantine, key=lambda item: item.id)))
        self.storage.write(entry.file, content)
        self.storage.write(f"{shard.name}.json", json_text(mark.model_dump(mode="json")).encode())
        self.marks[shard.index] = mark
        self.refused.discard(shard.index)
        if time.monotonic() - self._gathered > LOOK_SECONDS:  # not each time: there may be thousands
            self.gather()

    def look(self, at_once: bool = False) -> None:
        """Read the marks that are new, at most every `LOOK_SECONDS`; those of refused shards count as missing."""
        if not at_once and time.monotonic() - self._looked <= LOOK_SECONDS:
            return
        there = self.storage.sizes()
        marked = [shard for shard in self.plan if f"{shard.name}.json" in there and shard.index not in self.refused]
        new = [shard for shard in marked if shard.index not in self.marks]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            found = dict(zip([shard.index for shard in new], pool.map(self._read, new), strict=True))
        known = {shard.index: self.marks.get(shard.index) or found.get(shard.index) for shard in marked}
        self.marks = {index: mark for index, mark in known.items() if mark is not None}
        self._looked = time.monotonic()

    def gather(self, unfinished: Sequence[Exclusion] = ()) -> tuple[Index, tuple[Exclusion, ...]]:
        """Write all marks into the index, and the excluded utterances into the quarantine list.

        Every worker calls this after its last mark, and reads the marks again after writing. So the last writer has
        read all marks, although without locks a slow writer may replace a newer index with an older one. A worker that
        is killed in between leaves an index that the next call completes. `unfinished` are excluded utterances of a
        shard that has no mark.

        Raises:
            TargetsError: it cannot be written, or another extraction has begun there.
        """
        with self.storage.guard():
            self.look(at_once=True)
            while True:
                written = self.marks
                marks = [mark for _, mark in sorted(self.marks.items())]
                info = self.info.model_copy(update={"shards": tuple(mark.entry for mark in marks)})
                quarantine = (*(entry for mark in marks for entry in mark.quarantine), *unfinished)
                self._refuse_another()
                self.storage.write(QUARANTINE, quarantine_lines(quarantine))
                self.storage.write(info.index, info.to_bytes())
                self.look(at_once=True)
                if self.marks.keys() == written.keys():
                    break
        self._gathered = time.monotonic()
        return info, quarantine

    def _read(self, shard: PlannedShard) -> DoneMark | None:
        try:
            data = parse_json(self.storage.read(f"{shard.name}.json"))
            return DoneMark.model_validate({**data, "entry": self.info.entry.model_validate(data.get("entry"))})
        except (FileNotFoundError, ValueError):
            return None  # not done, or damaged: it is made again

    def _refuse_another(self) -> None:
        found, ours = (info.model_dump(mode="json") for info in (type(self.info).read(self.storage), self.info))
        differing = [name for name in ours if name not in self.info.differs_freely and found[name] != ours[name]]
        if differing:
            raise TargetsError(
                f"holds {self.info.contents} that differ in "
                + ", ".join(f"{name} ({found[name]!r} there, {ours[name]!r} here)" for name in differing),
                where=str(self.storage),
                expected="the same teacher, manifest and settings as the extraction that began it",
                remedy=self.info.make_again,
            )


def done_shards(folder: Path | str | Storage) -> int:
    """Shards of a store that have a done mark, of all workers."""
    return sum(name.startswith("shard-") and name.endswith(".json") for name in open_storage(folder).sizes())


def of_other_audio(shards: Sequence[ShardEntry], utterances: Sequence[Utterance]) -> list[str]:
    """Files of a complete store's shards whose utterances, all that were planned, have other audio now than then."""
    firsts = [shard.first_id for shard in shards]
    members: dict[int, list[Utterance]] = {}
    for utterance in utterances:
        members.setdefault(bisect.bisect_right(firsts, utterance.id) - 1, []).append(utterance)
    return [
        shard.file
        for index, shard in enumerate(shards)
        if shard.audio_sha256 not in (None, audio_sha256(members.get(index, [])))
    ]


def quarantine_lines(entries: Iterable[Exclusion]) -> bytes:
    """Return the content of the quarantine list."""
    return json_lines({"id": each.id, "path": str(each.path), "reason": each.reason} for each in entries).encode()


def json_lines_shard(shard: PlannedShard, rows: Iterable[Mapping[str, Any]]) -> tuple[bytes, ShardEntry]:
    """Return the content of a shard of JSON Lines, a row an utterance, and its entry in the index."""
    content = json_lines(rows).encode()
    entry = ShardEntry(
        file=f"{shard.name}.jsonl",
        sha256=hashlib.sha256(content).hexdigest(),
        utterances=content.count(b"\n"),
        first_id=shard.utterances[0].id,
        audio_sha256=audio_sha256(shard.utterances),
    )
    return content, entry


def read_json_lines(storage: Storage, info: StoreIndex) -> Iterator[bytes]:
    """Yield the lines of all shards of JSON Lines, once the hash of each is verified.

    Raises:
        TargetsError: a shard is missing or damaged.
    """
    for shard in info.shards:
        try:
            content = storage.read(shard.file)
        except FileNotFoundError:
            content = b""
        if hashlib.sha256(content).hexdigest() != shard.sha256:
            raise TargetsError(
                f"{shard.file} is missing or damaged",
                expected=f"the SHA-256 in {info.index}",
                where=str(storage),
                remedy="Run the command that made it again",
            )
        yield from content.splitlines()
