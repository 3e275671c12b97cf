"""Soft-target store: random access by utterance and variant, checked against teacher, vocabulary and frames."""

import bisect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError
from asr_kd.posteriors.types import SoftTargets
from asr_kd.targets.shard import FRAMES, Array, BlockCache, Shard, block_cache
from asr_kd.targets.shard_manifest import QUARANTINE, of_other_audio
from asr_kd.targets.sharding import manifest_sha256
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.store_index import EXTRACT_AGAIN, INDEX, StoreInfo
from asr_kd.text.vocabulary import Vocabulary

REPAIR = "Run the same `asr-kd extract` again; it makes missing and damaged shards again and keeps the others"


class Store:
    """Soft targets by utterance and variant; made by `Store.open`.

    Shards are opened at first use and their SHA-256 is checked then. May be
    handed to other processes: each opens its own files.
    """

    def __init__(self, folder: Path | str | Storage, info: StoreInfo) -> None:
        self.storage = open_storage(folder)
        self.folder = str(self.storage)
        self.info = info
        self._open: dict[int, Shard] = {}
        self._blocks: BlockCache | None = None  # made with the first shard
        self._first_ids = [entry.first_id for entry in info.shards]

    @classmethod
    def open(
        cls,
        folder: Path | str,
        vocabulary: Vocabulary | None = None,
        teacher_sha256: str | None = None,
        *,
        frame_shift_ms: float | None = None,
        frame_offset_ms: float | None = None,
        partial: bool = False,
    ) -> "Store":
        """Open a store and compare it with what the caller expects.

        Args:
            folder: holds `store.json` and the shards: a path, or any URL that fsspec reaches.
            vocabulary, teacher_sha256, frame_shift_ms, frame_offset_ms: of student and recipe; None does not compare.
            partial: also open a store whose extraction has not finished.

        Raises:
            TargetsError: another version, vocabulary, teacher or frames, unfinished, or shards missing or of
                another size. Their hashes are checked at first use; see `inspect.verify`.
        """
        storage = open_storage(folder)
        info = StoreInfo.read(storage, partial)
        _compare(info, str(storage), vocabulary, teacher_sha256, frame_shift_ms, frame_offset_ms)
        store = cls(storage, info)
        store._check_files()
        return store

    def read(
        self, utterance_id: str, variant: str = "speed-1.0", num_frames: int | None = None, name: str = FRAMES
    ) -> SoftTargets:
        """Targets of an utterance.

        Args:
            variant: speed and augmented copy, one of `info.variants`; see `targets.variant_name`.
            num_frames: frames that the student has for the same audio; None does not compare.
            name: of other posteriors than those of the frames, such as those pooled over tokens.

        Returns:
            Tokens (int32) and probabilities (float32), [T, K], by falling probability, fillers 0; K is the most
            entries of a frame in this utterance. They share the memory of a cached block and must not be changed;
            copy what is kept for long.

        Raises:
            TargetsError: not stored, damaged, or another number of frames (nothing is cropped).
        """
        shard = self._shard_of(utterance_id)
        found = shard.read(utterance_id, self._variant(variant), name)
        if num_frames is not None and num_frames != len(found.tokens):
            raise TargetsError(
                f"utterance {utterance_id!r} ({variant}) has {len(found.tokens)} frames of targets, "
                f"its student {num_frames}",
                expected="the same audio at the same frame shift",
                where=shard.where,
                remedy="The audio has changed since extraction, or the frame rates differ. Extract again into an "
                "empty folder (`asr-kd extract … --force`)",
            )
        return found

    def read_array(self, name: str, utterance_id: str, variant: str = "speed-1.0") -> Array:
        """A further named array of an utterance, [n, …].

        Raises:
            TargetsError: no such array or utterance.
        """
        return self._shard_of(utterance_id).read_array(name, utterance_id, self._variant(variant))

    def __contains__(self, utterance_id: str) -> bool:
        index = self._position(utterance_id)
        return index >= 0 and utterance_id in self._shard(index)

    def ids(self) -> Iterator[str]:
        for index in range(len(self.info.shards)):
            yield from self.ids_in(index)

    def ids_in(self, shard: int) -> list[str]:
        """The utterances of one shard, by its place in the index."""
        return self._shard(shard).ids

    def check_audio(self, utterances: Sequence[Utterance]) -> None:
        """Refuse targets of other audio than all extracted utterances have now under the same ids.

        Raises:
            TargetsError: their ids, durations or audio have changed since extraction.
        """
        if self.info.manifest_sha256 == manifest_sha256(utterances):
            changed = of_other_audio(self.info.shards, utterances)
            where = f" (shards {', '.join(changed)})"
        else:
            changed, where = [INDEX], " (ids or durations differ)"
        if changed:
            raise TargetsError(
                f"soft targets of other audio than the corpus holds now under the same ids{where}",
                where=self.folder,
                expected="the audio that the teacher labelled",
                remedy="Run the extract stage first (asr-kd extract); shards of unchanged audio are kept",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_blocks": None}

    def _check_files(self) -> None:
        sizes = self.storage.sizes()
        missing = [entry.file for entry in self.info.shards if entry.file not in sizes]
        if missing:
            raise TargetsError(f"missing shards: {', '.join(missing)}", where=self.folder, remedy=REPAIR)
        truncated = [entry.file for entry in self.info.shards if sizes[entry.file] != entry.num_bytes]
        if truncated:
            raise self._damaged(truncated)

    def _position(self, utterance_id: str) -> int:
        return bisect.bisect_right(self._first_ids, utterance_id) - 1

    def _shard_of(self, utterance_id: str) -> Shard:
        index = self._position(utterance_id)
        if index < 0 or utterance_id not in self._shard(index):
            raise TargetsError(
                f"no targets for utterance {utterance_id!r}",
                where=self.folder,
                expected="every utterance of the manifest",
                remedy=f"{QUARANTINE} there lists utterances that could not be used; after other changes to the data, "
                "extract again",
            )
        return self._shard(index)

    def _shard(self, index: int) -> Shard:
        if index not in self._open:
            entry = self.info.shards[index]
            path = self.storage.checked(entry.file, entry.sha256)
            if path is None:
                raise self._damaged([entry.file])
            self._blocks = self._blocks or block_cache()
            where = f"{self.folder}/{entry.file}"  # the path may be that of a copy
            self._open[index] = Shard(path, self.info.codec, len(self.info.variants), self._blocks, where)
        return self._open[index]

    def _variant(self, variant: str) -> int:
        if variant not in self.info.variants:
            raise TargetsError(
                f"no targets for variant {variant!r}",
                expected=f"one of {', '.join(self.info.variants)}",
                where=self.folder,
                remedy="Train with the speeds that were extracted, or extract with the training's speeds",
            )
        return self.info.variants.index(variant)

    def _damaged(self, files: list[str]) -> TargetsError:
        return TargetsError(
            f"damaged shards: {', '.join(files)}",
            expected=f"the SHA-256 and size that {INDEX} names",
            where=self.folder,
            remedy=REPAIR,
        )


def _compare(
    info: StoreInfo,
    where: str,
    vocabulary: Vocabulary | None,
    teacher_sha256: str | None,
    frame_shift_ms: float | None,
    frame_offset_ms: float | None,
) -> None:
    """Raise an error when a store is not what its reader expects; None is not compared."""
    other = "or extract with a teacher that has the student's"
    if vocabulary is not None and vocabulary.sha256 != info.vocabulary.sha256:
        raise TargetsError(
            f"targets over another vocabulary: {info.vocabulary.size} symbols, blank {info.vocabulary.blank_id}, "
            f"SHA-256 {info.vocabulary.sha256[:12]}…",
            expected=f"the student's {len(vocabulary)} symbols, blank {vocabulary.blank_id}, "
            f"SHA-256 {vocabulary.sha256[:12]}…",
            where=where,
            remedy=f"Give the student the teacher's vocabulary, {other}",
        )
    if teacher_sha256 not in (None, info.teacher.sha256):
        raise TargetsError(
            f"targets of teacher {info.teacher.name!r} with weights {info.teacher.sha256[:12]}…",
            expected=f"weights {str(teacher_sha256)[:12]}…: the teacher has changed since, or is another one",
            where=where,
            remedy=EXTRACT_AGAIN,
        )
    if frame_shift_ms not in (None, info.frame_shift_ms):
        raise TargetsError(
            f"targets of {info.frame_shift_ms:g} ms a frame",
            expected=f"the student's {frame_shift_ms:g} ms",
            where=where,
            remedy=f"Give the student the teacher's frame shift, {other}",
        )
    if frame_offset_ms not in (None, info.frame_offset_ms):
        raise TargetsError(
            f"targets whose first frame has its centre at {info.frame_offset_ms:g} ms",
            expected=f"the student's {frame_offset_ms:g} ms",
            where=where,
            remedy=EXTRACT_AGAIN,
        )
