"""Summary, verification and printed frames of a store. Nothing is written."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from asr_kd.errors import TargetsError, VocabularyError
from asr_kd.progress import SILENT, Progress
from asr_kd.targets.fidelity import fidelity_lines, read_fidelity
from asr_kd.targets.shard_manifest import FILES_AT_ONCE, QUARANTINE
from asr_kd.targets.storage import open_storage
from asr_kd.targets.store import Store
from asr_kd.targets.store_index import StoreInfo, read_vocabulary
from asr_kd.text.vocabulary import Vocabulary


def summarize(folder: Path | str) -> list[str]:
    """Summarize a store, finished or not, in lines.

    Raises:
        TargetsError: not a store, or damaged.
    """
    store = Store.open(folder, partial=True)
    info, sizes = store.info, store.storage.sizes()
    quarantined = len(store.storage.read(QUARANTINE).splitlines()) if QUARANTINE in sizes else 0
    shard_bytes = sum(shard.num_bytes for shard in info.shards)
    hours = info.frames * info.frame_shift_ms / 3_600_000
    vocabulary, folds, layers = info.vocabulary, "", ""
    if info.teacher.folds:
        hashes = ", ".join(f"{sha256[:12]}…" for sha256 in info.teacher.folds)
        folds = f"; out of fold, by {len(info.teacher.folds)} teachers: {hashes}"
    if info.layers:
        numbers = ", ".join(map(str, info.layers))
        layers = f", of which {info.layer_bytes_per_frame:.1f} for the teacher's layers {numbers}"
    fidelity = fidelity_lines(read_fidelity(store.storage)) if info.complete else ["kept: measured when all is there"]
    return [
        f"{store.storage}",
        f"  teacher: {info.teacher.name}, weights {info.teacher.sha256[:12]}…{folds}",
        f"  vocabulary: {vocabulary.size} symbols, blank {vocabulary.blank_id}, {vocabulary.sha256[:12]}…",
        f"  kept: ε {info.epsilon:g}, at most {info.max_entries} entries, certain blank δ {info.certain_blank:g}",
        f"  variants: {', '.join(info.variants)}",
        f"  shards: {len(info.shards)} of {info.planned_shards}{'' if info.complete else ', unfinished'}",
        f"  utterances: {sum(shard.utterances for shard in info.shards)}, and {quarantined} quarantined",
        f"  frames: {info.frames} of {info.frame_shift_ms:g} ms, {hours:.3g} h in all variants",
        f"  size: {shard_bytes / 1e6:.4g} MB of shards, {sum(sizes.values()) / 1e6:.4g} MB in all",
        f"  bytes a frame: {info.bytes_per_frame:.3f}{layers}",
        f"  entries a frame: {info.entries_per_frame:.3f}; "
        f"{100 * info.certain_share:.1f} % of frames in runs of certain blanks",
        *(f"  {line}" for line in fidelity),
    ]


@dataclass(frozen=True)
class Verification:
    """Result of `asr-kd targets verify`."""

    info: StoreInfo
    damage: tuple[str, ...]
    """A message for each damaged or missing file."""

    @property
    def ok(self) -> bool:
        """Whether every file is present and undamaged."""
        return not self.damage

    def lines(self) -> list[str]:
        done = f"{len(self.info.shards)} of {self.info.planned_shards} shards"
        if self.damage:
            return [
                *self.damage,
                "Run the same `asr-kd extract` again: it makes damaged shards again and keeps the others",
            ]
        finished = "" if self.info.complete else "; the others are not extracted yet"
        return [f"{done} and the vocabulary have the SHA-256 that the index names{finished}"]


def verify(folder: Path | str, progress: Progress = SILENT) -> Verification:
    """Hash every file that the index names; damage is listed, not raised.

    Raises:
        TargetsError: not a store, or its index is damaged.
    """
    storage = open_storage(folder)
    info = StoreInfo.read(storage)
    damage = []
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        hashes = pool.map(storage.sha256, [entry.file for entry in info.shards])
        for number, (entry, found) in enumerate(zip(info.shards, hashes, strict=True), start=1):
            if found is None:
                damage.append(f"{storage}/{entry.file}: is missing")
            elif found != entry.sha256:
                damage.append(
                    f"{storage}/{entry.file}: is damaged: SHA-256 {found[:12]}…, expected {entry.sha256[:12]}…"
                )
            progress.update("verify", number, len(info.shards), "shards")
    try:
        read_vocabulary(storage, info)
    except (TargetsError, VocabularyError) as error:
        damage.append(str(error))
    return Verification(info, tuple(damage))


BLANK_SHOWN = "∅"


Entries = list[tuple[int, float]]
"""Tokens of a frame and their probabilities, by falling probability, fillers left out."""


def _is_certain_blank(entries: Entries, info: StoreInfo) -> bool:
    """Whether a frame is from a run of certain blanks."""
    (token, probability), *others = entries
    return not others and token == info.vocabulary.blank_id and probability >= 1.0 - info.certain_blank


def sample_lines(
    folder: Path | str, utterance_id: str | None = None, variant: str | None = None, seed: int | None = None
) -> list[str]:
    """The lattice of an utterance of a store, finished or not.

    Args:
        utterance_id: None draws one, by `seed`.
        variant: None is the first one stored.

    Raises:
        TargetsError: not a store, damaged, empty, or without this utterance or variant.
    """
    store = Store.open(folder, partial=True)
    vocabulary = read_vocabulary(store.storage, store.info)
    return lattice(store, vocabulary, utterance_id or _drawn(store, seed), variant or store.info.variants[0])


def lattice(store: Store, vocabulary: Vocabulary, utterance_id: str, variant: str) -> list[str]:
    """Frame by frame: time, the best token and its probability, the alternatives; runs of certain blanks in one line.

    Raises:
        TargetsError: not stored.
    """
    targets = store.read(utterance_id, variant)
    frames = [
        [(token, prob) for token, prob in zip(tokens, probs, strict=True) if prob > 0]
        for tokens, probs in zip(targets.tokens.tolist(), targets.probs.tolist(), strict=True)
    ]
    info = store.info
    seconds = len(frames) * info.frame_shift_ms / 1000
    kept = sum(map(len, frames)) / max(len(frames), 1)
    best_path = [token for token, _ in groupby(entries[0][0] for entries in frames) if token != vocabulary.blank_id]
    return [
        f"{utterance_id} ({variant}): {len(frames)} frames of {info.frame_shift_ms:g} ms, {seconds:.2f} s, "
        f"{kept:.2f} entries a frame",
        f"best path: {vocabulary.decode(best_path)}",
        "  seconds  best         alternatives (what is missing to 1 is the tail)",
        *_rows(frames, info, vocabulary),
    ]


def _drawn(store: Store, seed: int | None) -> str:
    """Any stored utterance with the same chance."""
    counts = [shard.utterances for shard in store.info.shards]
    if not sum(counts):
        raise TargetsError("no utterance is stored yet", where=str(store.storage), remedy="Run `asr-kd extract`")
    generator = random.Random(seed)
    (shard,) = generator.choices(range(len(counts)), weights=counts)
    return generator.choice(store.ids_in(shard))


def _rows(frames: list[Entries], info: StoreInfo, vocabulary: Vocabulary) -> Iterator[str]:
    index = 0
    for certain, group in groupby(frames, key=lambda entries: _is_certain_blank(entries, info)):
        members = list(group)
        if certain:
            yield f"{_time(index, info)}  {BLANK_SHOWN} × {len(members)}"
        else:
            for offset, ((token, probability), *others) in enumerate(members):
                alternatives = "  ".join(f"{_shown(vocabulary, other)} {value:.3f}" for other, value in others)
                best = f"{_shown(vocabulary, token)} {probability:.3f}"
                yield f"{_time(index + offset, info)}  {best:<11}  {alternatives}".rstrip()
        index += len(members)


def _time(index: int, info: StoreInfo) -> str:
    return f"{(info.frame_offset_ms + index * info.frame_shift_ms) / 1000:9.3f}"


def _shown(vocabulary: Vocabulary, token: int) -> str:
    return BLANK_SHOWN if token == vocabulary.blank_id else vocabulary.symbols[token]
