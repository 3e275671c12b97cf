"""What a store holds, in numbers for people, and whether it is whole. Changes nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from asr_kd.errors import TargetsError, VocabularyError
from asr_kd.posteriors.types import SparsePosteriors
from asr_kd.progress import SILENT, Progress
from asr_kd.targets.shard_manifest import FILES_AT_ONCE, QUARANTINE
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.targets.store import Store, StoreInfo, read_info
from asr_kd.targets.store_vocabulary import read_vocabulary

SAMPLED_SHARDS = 16
SAMPLED_IN_A_SHARD = 8


@dataclass(frozen=True)
class Measures:
    """Means over the frames of a sample of stored utterances; entropy in nats."""

    utterances: int
    frames: int
    kept_mass: float
    entropy: float
    """Of what is stored, the tail as one entry: a lower bound of the teacher's own."""
    blank_share: float
    """Frames whose most probable token is the blank."""


@dataclass(frozen=True)
class StoreSummary:
    """What `asr-kd targets info` prints."""

    place: str
    info: StoreInfo
    total_bytes: int
    """All files: shards, marks, index, lists."""
    quarantined: int
    measures: Measures
    """Of the first variant."""

    def lines(self) -> list[str]:
        """One fact a line, or a few that belong together."""
        info, sample = self.info, self.measures
        frames = max(info.frames, 1)
        shard_bytes = sum(shard.num_bytes for shard in info.shards)
        hours = info.frames * info.frame_shift_ms / 3_600_000
        entries = sum(shard.entries for shard in info.shards) / frames
        certain = sum(shard.certain_frames for shard in info.shards) / frames
        vocabulary = info.vocabulary
        return [
            f"{self.place}",
            f"  teacher: {info.teacher.name}, weights {info.teacher.sha256[:12]}…{_folds(info)}",
            f"  vocabulary: {vocabulary.size} symbols, blank {vocabulary.blank_id}, {vocabulary.sha256[:12]}…",
            f"  kept: ε {info.epsilon:g}, at most {info.max_entries} entries, certain blank δ {info.certain_blank:g}",
            f"  variants: {', '.join(info.variants)}",
            f"  shards: {len(info.shards)} of {info.planned_shards}{'' if info.complete else ', unfinished'}",
            f"  utterances: {sum(shard.utterances for shard in info.shards)}, and {self.quarantined} quarantined",
            f"  frames: {info.frames} of {info.frame_shift_ms:g} ms, {hours:.3g} h in all variants",
            f"  size: {shard_bytes / 1e6:.4g} MB of shards, {self.total_bytes / 1e6:.4g} MB in all",
            f"  bytes a frame: {info.bytes_per_frame:.3f}{_layers(info)}",
            f"  entries a frame: {entries:.3f}; {100 * certain:.1f} % of frames in runs of certain blanks",
            f"  on an even sample of {sample.utterances} utterances ({sample.frames} frames, {info.variants[0]}):",
            f"    kept mass {sample.kept_mass:.4f}, entropy {sample.entropy:.3f} nats (the tail as one entry), "
            f"blank on {100 * sample.blank_share:.1f} % of frames",
        ]


def _folds(info: StoreInfo) -> str:
    hashes = info.teacher.folds
    if not hashes:
        return ""
    return f"; out of fold, by {len(hashes)} teachers: {', '.join(f'{sha256[:12]}…' for sha256 in hashes)}"


def _layers(info: StoreInfo) -> str:
    if not info.layers:
        return ""
    return f", of which {info.layer_bytes_per_frame:.1f} for the teacher's layers {', '.join(map(str, info.layers))}"


def summarize(folder: Path | str) -> StoreSummary:
    """Look into a store, finished or not.

    Raises:
        TargetsError: not a store, or damaged.
    """
    store = Store.open(folder, partial=True)
    sizes = store.place.sizes()
    listed = store.place.read(QUARANTINE).decode().splitlines() if QUARANTINE in sizes else []
    return StoreSummary(str(store.place), store.info, sum(sizes.values()), len(listed), measure(store))


def measure(store: Store) -> Measures:
    """Measures on an even sample: so many shards, so many utterances of each, the first variant."""
    variant, blank_id = store.info.variants[0], store.info.vocabulary.blank_id
    utterances, sums = 0, torch.zeros(4, dtype=torch.float64)
    for utterance_id in _sample(store):
        utterances += 1
        sums += _sums(store.read(utterance_id, variant), blank_id)
    frames, mass, entropy, blanks = sums.tolist()
    each = max(frames, 1.0)
    return Measures(utterances, int(frames), mass / each, entropy / each, blanks / each)


def _sample(store: Store) -> Iterator[str]:
    for shard in _spread(len(store.info.shards), SAMPLED_SHARDS):
        ids = store.ids_in(shard)
        yield from (ids[index] for index in _spread(len(ids), SAMPLED_IN_A_SHARD))


def _spread(available: int, wanted: int) -> list[int]:
    """At most `wanted` different indices, even from the first to the last."""
    count = min(available, wanted)
    return [round(index * (available - 1) / max(count - 1, 1)) for index in range(count)]


def _sums(targets: SparsePosteriors, blank_id: int) -> Tensor:
    """Frames, and sums over them of kept mass, entropy and blanks."""
    probs = targets.probs.double()
    mass = probs.sum(-1)
    entropy = torch.special.entr(probs).sum(-1) + torch.special.entr((1 - mass).clamp(0, 1))
    best = targets.tokens.long().gather(-1, probs.argmax(-1, keepdim=True))
    return torch.stack([torch.tensor(float(len(probs))).double(), mass.sum(), entropy.sum(), (best == blank_id).sum()])


@dataclass(frozen=True)
class Verification:
    """What `asr-kd targets verify` found."""

    info: StoreInfo
    damage: tuple[str, ...]
    """One file and its trouble each."""

    @property
    def ok(self) -> bool:
        """Whether all that should be there is there as it was written."""
        return not self.damage

    def lines(self) -> list[str]:
        """What is damaged, or that nothing is."""
        done = f"{len(self.info.shards)} of {self.info.planned_shards} shards"
        if self.damage:
            return [
                *self.damage,
                "Run the same `asr-kd extract` again: it makes damaged shards anew and keeps the others",
            ]
        finished = "" if self.info.complete else "; the others are not extracted yet"
        return [f"{done} and the vocabulary have the SHA-256 that the index names{finished}"]


def verify(folder: Path | str, progress: Progress = SILENT) -> Verification:
    """Hash every file that the index names; damage is listed, not raised.

    Raises:
        TargetsError: not a store, or its index is damaged.
    """
    place = open_storage(folder)
    info = read_info(place)
    damage = []
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        hashes = pool.map(place.sha256, [entry.file for entry in info.shards])
        for number, (entry, found) in enumerate(zip(info.shards, hashes, strict=True), start=1):
            if found is None:
                damage.append(f"{place}/{entry.file}: is missing")
            elif found != entry.sha256:
                damage.append(f"{place}/{entry.file}: is damaged: SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…")
            progress.update("verify", number, len(info.shards), "shards")
    return Verification(info, (*damage, *_vocabulary_damage(place, info)))


def _vocabulary_damage(place: Storage, info: StoreInfo) -> list[str]:
    try:
        read_vocabulary(place, info)
    except (TargetsError, VocabularyError) as error:
        return [str(error)]
    return []
