"""Index of a soft-target store: `store.json` (teacher, vocabulary, settings, shards), and its `tokens.txt`."""

from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.errors import TargetsError
from asr_kd.files import sha256_of
from asr_kd.targets.packing import Codec
from asr_kd.targets.shard import FRAMES
from asr_kd.targets.shard_manifest import ShardEntry, StoreIndex
from asr_kd.targets.storage import Storage
from asr_kd.text.vocabulary import Vocabulary

INDEX, VOCABULARY = "store.json", "tokens.txt"
VOCABULARY_FILES = (VOCABULARY, "bpe.model")
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

    index: ClassVar[str] = INDEX
    shard_suffix: ClassVar[str] = ".safetensors"
    entry: ClassVar[type[ShardEntry]] = PosteriorShardEntry
    contents: ClassVar[str] = "soft targets"
    made_by: ClassVar[str] = "`asr-kd extract`"
    make_again: ClassVar[str] = EXTRACT_AGAIN

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
    def frames(self) -> int:
        """Stored frames of all variants."""
        return sum(shard.frames for shard in self.shards)

    @property
    def entries_per_frame(self) -> float:
        """A collapsed blank counts as one."""
        return sum(shard.entries for shard in self.shards) / max(self.frames, 1)

    @property
    def certain_share(self) -> float:
        """Share of frames inside runs of certain blanks."""
        return sum(shard.certain_frames for shard in self.shards) / max(self.frames, 1)

    @property
    def bytes_per_frame(self) -> float:
        """All bytes of the shards by all their frames; 0 of an empty store."""
        return sum(shard.num_bytes for shard in self.shards) / max(self.frames, 1)

    @property
    def layer_bytes_per_frame(self) -> float:
        """Of these, what hidden layers take: a byte a channel, and 4 for its scale in each utterance and variant."""
        rows = sum(shard.utterances for shard in self.shards) * len(self.variants)
        return sum(self.layers.values()) * (1 + 4 * rows / max(self.frames, 1))


def write_vocabulary(storage: Storage, vocabulary: Vocabulary) -> None:
    """Write the vocabulary beside the index, unless it is there."""
    there = storage.sizes()
    with TemporaryDirectory() as folder:
        vocabulary.save(Path(folder) / VOCABULARY)
        for path in sorted(Path(folder).iterdir()):
            content = path.read_bytes()
            if path.name not in there or storage.read(path.name) != content:
                storage.write(path.name, content)


def read_vocabulary(storage: Storage, info: StoreInfo) -> Vocabulary:
    """Read the vocabulary of a store.

    Raises:
        TargetsError: it is not there, or not the one that the index names.
        VocabularyError: it is damaged.
    """
    there = storage.sizes()
    with TemporaryDirectory() as folder:
        for name in VOCABULARY_FILES:
            if name in there:
                (Path(folder) / name).write_bytes(storage.read(name))
        found = Vocabulary.load(Path(folder) / VOCABULARY) if VOCABULARY in there else None
    if found is None or found.sha256 != info.vocabulary.sha256:
        raise TargetsError(
            "is not there" if found is None else f"holds other symbols: {len(found)}, SHA-256 {found.sha256[:12]}…",
            where=f"{storage}/{VOCABULARY}",
            expected=f"the {info.vocabulary.size} symbols of SHA-256 {info.vocabulary.sha256[:12]}…",
            remedy=f"Copy the student's tokens.txt there. {EXTRACT_AGAIN}" if found is None else EXTRACT_AGAIN,
        )
    return found
