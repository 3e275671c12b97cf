"""What is done of a store: a mark beside each finished shard, gathered into the index and the quarantine list.

Workers do not talk: each writes its marks, and whoever gathers sees all that there are. Knows nothing of teachers.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from pydantic import ValidationError

from asr_kd.config import Settings
from asr_kd.errors import AsrKdError, TargetsError
from asr_kd.targets.labelling import QuarantineEntry
from asr_kd.targets.shard import ShardRow, parts_sha256
from asr_kd.targets.sharding import PlannedShard
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.store import EXTRACT_AGAIN, INDEX, QUARANTINE, ShardEntry, StoreInfo, read_info

LOOK_SECONDS = 30.0
"""How often a worker looks for what the others have finished, and writes the index in between."""
FILES_AT_ONCE = 8
"""Marks and shards are read in parallel: thousands of them may lie far away."""


class DoneMark(Settings):
    """Beside each finished shard: what the index will say of it, and who was left out."""

    entry: ShardEntry
    quarantine: tuple[QuarantineEntry, ...]


class ShardManifest:
    """The done marks of one extraction, this worker's and the others'.

    Args:
        place: where the store is.
        info: what the index is to say, without its shards.
        plan: all shards, of all workers.
    """

    def __init__(self, place: Storage, info: StoreInfo, plan: Sequence[PlannedShard]) -> None:
        self.place, self.info = place, info
        self.marks: dict[int, DoneMark] = {}
        """By number of the shard; as of the last look."""
        self._plan = plan
        self._looked = self._gathered = float("-inf")

    def begin(self) -> None:
        """Begin the store, or find that it is this extraction's.

        Raises:
            TargetsError: it holds another teacher's, data's or settings' targets, or cannot be written.
        """
        with writing(self.place), self.place.guard():
            if INDEX in self.place.sizes():
                self._refuse_another()
            else:
                self.place.write_json(INDEX, self.info.model_dump())
            self.look(at_once=True)

    def is_done(self, shard: PlannedShard) -> bool:
        """Whether a shard is there and whole: its bytes are hashed."""
        mark = self._read(shard)
        done = mark is not None and self.place.sha256(f"{shard.name}.safetensors") == mark.entry.sha256
        if mark is not None and done:
            self.marks[shard.index] = mark
        else:
            self.marks.pop(shard.index, None)
        return done

    def whole(self, shards: Sequence[PlannedShard]) -> set[int]:
        """Numbers of the shards that are done, see `is_done`; several are hashed at once."""
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return {shard.index for shard, done in zip(shards, pool.map(self.is_done, shards), strict=True) if done}

    def finish(
        self, shard: PlannedShard, content: bytes, entry: ShardEntry, quarantine: Sequence[QuarantineEntry]
    ) -> None:
        """Write a shard, then its mark.

        Raises:
            TargetsError: it cannot be written; what was finished before stays usable.
        """
        mark = DoneMark(entry=entry, quarantine=tuple(sorted(quarantine, key=lambda item: item.id)))
        with writing(self.place):
            self.place.write(entry.file, content)
            self.place.write_json(f"{shard.name}.json", mark.model_dump())
        self.marks[shard.index] = mark
        if time.monotonic() - self._gathered > LOOK_SECONDS:  # not each time: there may be thousands
            self.gather()

    def look(self, at_once: bool = False) -> None:
        """Read the marks that are new, at most every `LOOK_SECONDS`."""
        if not at_once and time.monotonic() - self._looked <= LOOK_SECONDS:
            return
        there = self.place.sizes()
        marked = [shard for shard in self._plan if f"{shard.name}.json" in there]
        new = [shard for shard in marked if shard.index not in self.marks]
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            found = dict(zip([shard.index for shard in new], pool.map(self._read, new), strict=True))
        known = {shard.index: self.marks.get(shard.index) or found.get(shard.index) for shard in marked}
        self.marks = {index: mark for index, mark in known.items() if mark is not None}
        self._looked = time.monotonic()

    def gather(self, unfinished: Sequence[QuarantineEntry] = ()) -> tuple[StoreInfo, tuple[QuarantineEntry, ...]]:
        """Write all marks into the index, and who was left out into the quarantine list.

        Every worker gathers after its last mark, and looks again after it has written. So the one that writes last has
        seen all marks, although places without locks let a slow writer put an older index over a newer one. Who is
        killed in between leaves an index that the next call completes.

        Args:
            unfinished: left out of a shard that has no mark.

        Raises:
            TargetsError: the place cannot be written, or another extraction has begun there.
        """
        with writing(self.place), self.place.guard():
            self.look(at_once=True)
            while True:
                written = self.marks
                info, quarantine = self._summary(unfinished)
                self._refuse_another()
                self.place.write(QUARANTINE, "".join(f"{entry.model_dump_json()}\n" for entry in quarantine).encode())
                self.place.write_json(INDEX, info.model_dump())
                self.look(at_once=True)
                if self.marks.keys() == written.keys():
                    break
        self._gathered = time.monotonic()
        return info, quarantine

    def _summary(self, unfinished: Sequence[QuarantineEntry]) -> tuple[StoreInfo, tuple[QuarantineEntry, ...]]:
        marks = [mark for _, mark in sorted(self.marks.items())]
        info = self.info.model_copy(update={"shards": tuple(mark.entry for mark in marks)})
        return info, (*(entry for mark in marks for entry in mark.quarantine), *unfinished)

    def _read(self, shard: PlannedShard) -> DoneMark | None:
        try:
            return DoneMark.model_validate_json(self.place.read(f"{shard.name}.json"))
        except (FileNotFoundError, ValidationError, UnicodeDecodeError):
            return None  # not done, or damaged: it is made again

    def _refuse_another(self) -> None:
        found, ours = (info.model_dump(mode="json") for info in (read_info(self.place), self.info))
        differing = [name for name in ours if name != "shards" and found[name] != ours[name]]
        if differing:
            raise TargetsError(
                "holds targets that differ in "
                + ", ".join(f"{name} ({found[name]!r} there, {ours[name]!r} here)" for name in differing),
                where=str(self.place),
                expected="the same teacher, manifest and settings as the extraction that began it",
                remedy=EXTRACT_AGAIN,
            )


def entry_of(shard: PlannedShard, content: bytes, rows: Mapping[str, Sequence[ShardRow]]) -> ShardEntry:
    """What the index says of a shard with this content, made of these rows."""
    packed = [row.packed for variants in rows.values() for row in variants]
    certain = sum(int(item.runs.sum()) for item in packed)
    written = sum(int((item.events > 0).sum()) for item in packed)
    return ShardEntry(
        file=f"{shard.name}.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        num_bytes=len(content),
        first_id=shard.utterances[0].id,
        utterances=len(rows),
        frames=written + certain,
        entries=sum(len(item.tokens) for item in packed) + certain,
        certain_frames=certain,
        parts=parts_sha256(content),
    )


def done_shards(folder: Storage | str) -> int:
    """Shards of a store that have a done mark, whoever made them."""
    return sum(name.startswith("shard-") and name.endswith(".json") for name in open_storage(folder).sizes())


@contextmanager
def writing(place: Storage) -> Iterator[None]:
    """Turn trouble with the disk into what a user of soft targets can act on."""
    try:
        yield
    except (OSError, AsrKdError) as error:
        if isinstance(error, AsrKdError) and type(error) is not AsrKdError:
            raise  # says more than that a file could not be written
        raise TargetsError(
            error.found if isinstance(error, AsrKdError) else f"cannot be written ({error.strerror or error})",
            where=(error.where if isinstance(error, AsrKdError) else "") or str(place),
            expected="a folder that can be written, with space left",
            remedy="Free some space, then run the same command again: finished shards are kept and usable",
        ) from error
