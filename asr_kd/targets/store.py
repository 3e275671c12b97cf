"""Soft-target store: random access by utterance and variant, checked against teacher, vocabulary and frames."""

import bisect
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError
from asr_kd.files import sha256_of
from asr_kd.posteriors.types import SparsePosteriors
from asr_kd.targets.blocks import BlockCache
from asr_kd.targets.index import IndexForm, read_index
from asr_kd.targets.packing import Codec
from asr_kd.targets.shard import FRAMES, Array, Shard
from asr_kd.targets.shard_manifest import QUARANTINE, ShardEntry, StoreIndex, of_other_audio
from asr_kd.targets.sharding import manifest_sha256
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.text.vocabulary import Vocabulary

FORMAT = "asr-kd soft targets"
FORMAT_VERSION = 3
INDEX, VOCABULARY = "store.json", "tokens.txt"
EXTRACT_AGAIN = "Extract again into an empty folder (`asr-kd extract … --force`)"


class TeacherIdentity(Settings):
    """Teacher of a store."""

    name: str
    sha256: str
    """Of its weights."""
    folds: tuple[str, ...] = ()
    """Weights of the teachers of folds, each of which labelled the speakers outside its training set; none: one
    labelled all."""


class VocabularyIdentity(Settings):
    """Vocabulary of a store."""

    size: int
    sha256: str
    blank_id: int


class PosteriorShardEntry(ShardEntry):
    """One shard in the index."""

    num_bytes: int
    first_id: str
    frames: int
    """Of all variants."""
    entries: int
    """Kept entries of all frames; a collapsed blank counts as one."""
    certain_frames: int
    """Frames inside runs of certain blanks."""
    parts: dict[str, str]
    """Hashes of what is in it, see `shard.parts_sha256`."""


class StoreInfo(StoreIndex):
    """Content of `store.json`."""

    format: Literal["asr-kd soft targets"] = "asr-kd soft targets"
    version: Literal[3] = 3
    teacher: TeacherIdentity
    vocabulary: VocabularyIdentity
    frame_shift_ms: float
    frame_offset_ms: float
    """Centre of frame 0, from the start of the audio."""
    features: dict[str, Any]
    """The teacher's feature extraction; plain data."""
    epsilon: float
    max_entries: int
    certain_blank: float
    levels: int
    """Steps of an angle in which probabilities are kept; see `packing`."""
    variants: tuple[str, ...]
    perturbed: dict[str, dict[str, Any]] = Field(default={})
    """Augmentation of the variants that are not as recorded, by name; plain data."""
    manifest_sha256: str
    """Of ids and durations, see `sharding.manifest_sha256`."""
    transcripts_sha256: str | None = None
    """Of the tokens that posteriors are pooled over as well; None: none are."""
    layers: dict[int, int] = Field(default={})
    """Hidden layers of the teacher that are stored as well, counted from 1, and the width of each."""
    planned_shards: int
    shards: tuple[PosteriorShardEntry, ...] = ()
    """Those that are done."""

    @property
    def codec(self) -> Codec:
        """How frames are packed."""
        return Codec(self.vocabulary.size, self.vocabulary.blank_id, self.max_entries, self.certain_blank, self.levels)

    def parts_identity(self, names: Collection[str]) -> str | None:
        """Hash of the frames and the named arrays and posteriors, independent of other parts of the store.

        None where a shard lacks one of them.
        """
        wanted = sorted({FRAMES, *names})
        if not all(name in shard.parts for shard in self.shards for name in wanted):
            return None
        others = {"shards", "transcripts_sha256", "layers"}  # the hashes of parts cover them
        parts = [[shard.first_id, *(shard.parts[name] for name in wanted)] for shard in self.shards]
        return sha256_of([self.model_dump(mode="json", exclude=others), wanted, parts])

    @property
    def complete(self) -> bool:
        """Whether every planned shard is done."""
        return len(self.shards) == self.planned_shards

    @property
    def frames(self) -> int:
        """Stored frames of all variants."""
        return sum(shard.frames for shard in self.shards)

    @property
    def bytes_per_frame(self) -> float:
        """All bytes of the shards by all their frames; 0 of an empty store."""
        return sum(shard.num_bytes for shard in self.shards) / max(self.frames, 1)

    @property
    def layer_bytes_per_frame(self) -> float:
        """Of these, what hidden layers take: a byte a channel, and 4 for its scale in each utterance and variant."""
        rows = sum(shard.utterances for shard in self.shards) * len(self.variants)
        return sum(self.layers.values()) * (1 + 4 * rows / max(self.frames, 1))


def read_info(folder: Path | str | Storage) -> StoreInfo:
    """Read the index of a store.

    Raises:
        TargetsError: not a store, of another version, or its index is damaged.
    """
    form = IndexForm(
        INDEX, FORMAT, FORMAT_VERSION, StoreInfo, "soft targets", made_by="`asr-kd extract`", make_again=EXTRACT_AGAIN
    )
    return read_index(open_storage(folder), form)


class Store:
    """Soft targets by utterance and variant; made by `Store.open`.

    Shards are opened at first use and their SHA-256 is checked then. May be
    handed to other processes: each opens its own files.
    """

    def __init__(self, folder: Path | str | Storage, info: StoreInfo) -> None:
        self.place = open_storage(folder)
        self.folder = str(self.place)
        self.info = info
        self._open: dict[int, Shard] = {}
        self._blocks = BlockCache()
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
            vocabulary: the student's; None does not compare.
            teacher_sha256: of the weights of the teacher that the recipe names; None does not compare.
            frame_shift_ms: of the student's frames; None does not compare.
            frame_offset_ms: centre of the student's frame 0; None does not compare.
            partial: also open a store whose extraction has not finished.

        Raises:
            TargetsError: another version, vocabulary, teacher or frames, unfinished, or shards missing or of
                another size. Their hashes are checked at first use; see `verify`.
        """
        place = open_storage(folder)
        info = read_info(place)
        if vocabulary is not None and vocabulary.sha256 != info.vocabulary.sha256:
            raise TargetsError(
                f"targets over another vocabulary: {info.vocabulary.size} symbols, blank {info.vocabulary.blank_id}, "
                f"SHA-256 {info.vocabulary.sha256[:12]}…",
                expected=f"the student's {len(vocabulary)} symbols, blank {vocabulary.blank_id}, "
                f"SHA-256 {vocabulary.sha256[:12]}…",
                where=str(place),
                remedy="Give the student the teacher's vocabulary, or extract with a teacher that has the student's",
            )
        if teacher_sha256 is not None and teacher_sha256 != info.teacher.sha256:
            raise TargetsError(
                f"targets of teacher {info.teacher.name!r} with weights {info.teacher.sha256[:12]}…",
                expected=f"weights {teacher_sha256[:12]}…: the teacher has changed since, or is another one",
                where=str(place),
                remedy=EXTRACT_AGAIN,
            )
        if frame_shift_ms is not None and frame_shift_ms != info.frame_shift_ms:
            raise TargetsError(
                f"targets of {info.frame_shift_ms:g} ms a frame",
                expected=f"the student's {frame_shift_ms:g} ms",
                where=str(place),
                remedy="Give the student the teacher's frame shift, or extract with a teacher that has the student's",
            )
        if frame_offset_ms is not None and frame_offset_ms != info.frame_offset_ms:
            raise TargetsError(
                f"targets whose first frame has its centre at {info.frame_offset_ms:g} ms",
                expected=f"the student's {frame_offset_ms:g} ms",
                where=str(place),
                remedy=EXTRACT_AGAIN,
            )
        store = cls(place, info)
        store._check_files()
        if not info.complete and not partial:
            raise TargetsError(
                f"extraction is unfinished: {len(info.shards)} of {info.planned_shards} shards",
                where=str(place),
                remedy="Run the same `asr-kd extract` again; it resumes where it stopped",
            )
        return store

    def read(self, utterance_id: str, variant: str = "speed-1.0", num_frames: int | None = None) -> SparsePosteriors:
        """Targets of an utterance.

        Args:
            utterance_id: as in the manifest.
            variant: which augmented copy; see `info.variants`.
            num_frames: frames that the student has for the same audio; None does not compare.

        Returns:
            Tokens (int32) and probabilities (float32), [T, K], by falling probability, fillers 0; K is the most
            entries of a frame in this utterance. They share the memory of a cached block and must not be changed;
            copy what is kept for long.

        Raises:
            TargetsError: not stored, damaged, or another number of frames (nothing is cropped).
        """
        shard = self._shard_of(utterance_id)
        found = shard.read(utterance_id, self._variant(variant))
        if num_frames is not None and num_frames != len(found.tokens):
            raise TargetsError(
                f"utterance {utterance_id!r} ({variant}) has {len(found.tokens)} frames of targets, "
                f"its student {num_frames}",
                expected="the same audio at the same frame shift",
                where=shard.path,
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

    def read_posteriors(self, name: str, utterance_id: str, variant: str = "speed-1.0") -> SparsePosteriors:
        """Further named posteriors of an utterance, such as those pooled over tokens; as `read` gives frames.

        Raises:
            TargetsError: none of that name, or no such utterance.
        """
        return self._shard_of(utterance_id).read_posteriors(name, utterance_id, self._variant(variant))

    def __contains__(self, utterance_id: str) -> bool:
        index = self._position(utterance_id)
        return index >= 0 and utterance_id in self._shard(index)

    def ids(self) -> Iterator[str]:
        """All utterances, sorted."""
        for index in range(len(self.info.shards)):
            yield from self.ids_in(index)

    def ids_in(self, shard: int) -> list[str]:
        """The utterances of one shard, by its place in the index."""
        return self._shard(shard).ids

    def verify(self) -> None:
        """Check the SHA-256 of every shard.

        Raises:
            TargetsError: names all damaged shards.
        """
        damaged = [entry.file for entry in self.info.shards if self.place.sha256(entry.file) != entry.sha256]
        if damaged:
            raise self._damaged(damaged)

    def check_audio(self, utterances: Sequence[Utterance]) -> None:
        """Refuse targets of other audio than is there now under the same ids.

        Args:
            utterances: those that were extracted, all of them.

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
                remedy="Run the extract stage first (leave --from out); shards of unchanged audio are kept",
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_blocks": BlockCache()}

    def _check_files(self) -> None:
        sizes = self.place.sizes()
        missing = [entry.file for entry in self.info.shards if entry.file not in sizes]
        if missing:
            raise TargetsError(f"missing shards: {', '.join(missing)}", where=self.folder, remedy=self._repair())
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
            path = self.place.checked(entry.file, entry.sha256)
            if path is None:
                raise self._damaged([entry.file])
            self._open[index] = Shard(path, self.info.codec, len(self.info.variants), self._blocks)
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
            remedy=self._repair(),
        )

    def _repair(self) -> str:
        return "Run the same `asr-kd extract` again; it makes missing and damaged shards again and keeps the others"
