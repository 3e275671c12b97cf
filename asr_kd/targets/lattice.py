"""An utterance's soft targets as lines that people can read. Changes nothing."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from asr_kd.errors import TargetsError
from asr_kd.posteriors.types import SparsePosteriors
from asr_kd.targets.store import Store, StoreInfo
from asr_kd.targets.store_vocabulary import read_vocabulary
from asr_kd.text.vocabulary import Vocabulary

BLANK_SHOWN = "∅"


@dataclass(frozen=True)
class _Frame:
    """A frame as it is shown: its entries by falling probability, fillers left out."""

    entries: tuple[tuple[int, float], ...]

    def is_certain_blank(self, info: StoreInfo) -> bool:
        """Whether it came out of a run: alone, the blank, and almost sure."""
        (token, probability), *others = self.entries
        return not others and token == info.vocabulary.blank_id and probability >= 1.0 - info.certain_blank


def sample_lines(
    folder: Path | str, utterance_id: str | None = None, variant: str | None = None, seed: int | None = None
) -> list[str]:
    """The lattice of an utterance of a store, finished or not.

    Args:
        folder: of the store: a path or a URL.
        utterance_id: whose; None draws one.
        variant: at which speed; None is the first one stored.
        seed: of the draw; None draws another each time.

    Raises:
        TargetsError: not a store, damaged, empty, or without this utterance or variant.
    """
    store = Store.open(folder, partial=True)
    vocabulary = read_vocabulary(store.place, store.info)
    return lattice(store, vocabulary, utterance_id or _drawn(store, seed), variant or store.info.variants[0])


def lattice(store: Store, vocabulary: Vocabulary, utterance_id: str, variant: str) -> list[str]:
    """Frame by frame: time, the best token and its probability, the alternatives; runs of certain blanks in one line.

    Args:
        store: where it is.
        vocabulary: what the token ids mean.
        utterance_id: whose targets.
        variant: at which speed; see `store.info.variants`.

    Raises:
        TargetsError: not stored.
    """
    targets = store.read(utterance_id, variant)
    frames = list(_frames(targets))
    info = store.info
    seconds = len(frames) * info.frame_shift_ms / 1000
    kept = sum(len(frame.entries) for frame in frames) / max(len(frames), 1)
    best = [frame.entries[0][0] for frame in frames]
    spoken = [token for token, _ in groupby(best) if token != vocabulary.blank_id]
    return [
        f"{utterance_id} ({variant}): {len(frames)} frames of {info.frame_shift_ms:g} ms, {seconds:.2f} s, "
        f"{kept:.2f} entries a frame",
        f"best path: {vocabulary.decode(spoken)}",
        "  seconds  best         alternatives (what is missing to 1 is the tail)",
        *_rows(frames, info, vocabulary),
    ]


def _drawn(store: Store, seed: int | None) -> str:
    """Any stored utterance with the same chance."""
    counts = [shard.utterances for shard in store.info.shards]
    if not sum(counts):
        raise TargetsError("no utterance is stored yet", where=str(store.place), remedy="Run `asr-kd extract`")
    generator = random.Random(seed)
    (shard,) = generator.choices(range(len(counts)), weights=counts)
    return generator.choice(store.ids_in(shard))


def _frames(targets: SparsePosteriors) -> Iterator[_Frame]:
    for tokens, probs in zip(targets.tokens.tolist(), targets.probs.tolist(), strict=True):
        yield _Frame(tuple((token, prob) for token, prob in zip(tokens, probs, strict=True) if prob > 0))


def _rows(frames: list[_Frame], info: StoreInfo, vocabulary: Vocabulary) -> Iterator[str]:
    index = 0
    for certain, group in groupby(frames, key=lambda frame: frame.is_certain_blank(info)):
        members = list(group)
        if certain:
            yield f"{_time(index, info)}  {BLANK_SHOWN} × {len(members)}"
        else:
            for offset, frame in enumerate(members):
                (token, probability), *others = frame.entries
                alternatives = "  ".join(f"{_shown(vocabulary, other)} {value:.3f}" for other, value in others)
                best = f"{_shown(vocabulary, token)} {probability:.3f}"
                yield f"{_time(index + offset, info)}  {best:<11}  {alternatives}".rstrip()
        index += len(members)


def _time(index: int, info: StoreInfo) -> str:
    return f"{(info.frame_offset_ms + index * info.frame_shift_ms) / 1000:9.3f}"


def _shown(vocabulary: Vocabulary, token: int) -> str:
    return BLANK_SHOWN if token == vocabulary.blank_id else vocabulary.symbols[token]
