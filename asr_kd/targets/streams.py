"""Packed frames as bits, through codes that were fitted to all utterances of a shard.

An utterance is four streams, one after the other, each value coded by what a reader knows by then:

    kinds    what an event is: a run of some length, or a number of entries and the tail's code; by the kind before
    bests    the largest entry's token; by that of the frame before
    codes    the other entries' codes; by the one before in the same frame
    others   the other entries' tokens: as the frame before has it, as the frame after has it, or another one; the
             second entry by the largest, all further ones alike

A context that pays for a code of its own has one, all others of the stream share one. So the same scheme serves 28
characters and 5,000 pieces of words. Utterances are read together: one is so short that calling numpy would be most of
the work. Knows packed frames, nothing of files.

Shapes: R rows (utterances read together), E events, W events that are frames with entries, N entries of all frames.
"""

from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr_kd.targets.codebook import Book, Stream
from asr_kd.targets.huffman import BitReader, Integers, write_bits
from asr_kd.targets.packing import Codec, Packed

STREAMS = ("kinds", "bests", "codes", "others")
FRAME = 256
"""A kind below is a run of this length; from here on it is FRAME · entries + code of the tail."""
START, FIRST_CODE = 0, 256
"""Contexts of a sequence's first kind and of a frame's first code."""
BEFORE, AFTER, ELSE = 0, 1, 2
"""Another entry's token: as the frame before has it, as the frame after has it, or ELSE + token."""
CHAIN = -1
"""Stands for a context that is the value before; for a stream's first it is START."""


class Coded(NamedTuple):
    """A row as it lies in a shard."""

    books: Sequence[Book]
    data: NDArray[np.uint8]  # whole bytes
    num_events: int


class _Layout(NamedTuple):
    """Which entry stands where; follows from the events and where rows begin."""

    is_frame: NDArray[np.bool_]  # [E]
    places: Integers  # [W] among all events, with one left free before each row and one after the last
    num_places: int
    counts: Integers  # [W]
    ranks: Integers  # [N], 0 for a frame's largest entry

    @classmethod
    def of(cls, events: Integers, rows: Integers) -> "_Layout":
        """Of events [E] and the row of each."""
        is_frame = events > 0
        counts = events[is_frame]
        firsts = np.cumsum(counts) - counts
        places = (np.arange(1, len(events) + 1) + rows)[is_frame]
        num_places = len(events) + int(rows.max(initial=0)) + 2
        return cls(is_frame, places, num_places, counts, np.arange(counts.sum()) - np.repeat(firsts, counts))

    @property
    def follows(self) -> NDArray[np.bool_]:
        """Frames that stand right behind one of the same row, [W]."""
        follows = np.zeros(len(self.places), np.bool_)
        follows[1:] = self.places[1:] == self.places[:-1] + 1
        return follows


def streams_of(codec: Codec, packed: Packed) -> tuple[Stream, Stream, Stream, Stream]:
    """The streams of a sequence, in the order of STREAMS."""
    layout = _Layout.of(packed.events.astype(np.int64), np.zeros(len(packed.events), np.int64))
    largest, other = layout.ranks == 0, layout.ranks > 0
    tokens, codes = packed.tokens.astype(np.int64), packed.codes.astype(np.int64)
    kinds = np.zeros(len(packed.events), np.int64)
    kinds[~layout.is_frame] = packed.runs
    kinds[layout.is_frame] = FRAME * layout.counts + codes[largest]
    before, after = _neighbours(codec, layout, tokens[largest])
    ahead, behind = (np.repeat(side, layout.counts - 1) for side in (before, after))
    others = tokens[other]
    relative = np.where(others == ahead, BEFORE, np.where(others == behind, AFTER, ELSE + others))
    previous_code = np.concatenate([[FIRST_CODE], codes])[:-1]
    return (
        Stream(kinds, np.concatenate([[START], kinds])[:-1]),
        Stream(tokens[largest], before),
        Stream(codes[other], np.where(layout.ranks == 1, FIRST_CODE, previous_code)[other]),
        Stream(relative, _contexts_of_others(codec, layout, tokens[largest])),
    )


def encode(books: Sequence[Book], rows: Sequence[Sequence[Stream]]) -> list[NDArray[np.uint8]]:
    """Whole bytes for each row of streams, each stream coded by its book."""
    coded = [book.codes_of(streams) for book, streams in zip(books, zip(*rows, strict=True), strict=bool(rows))]
    return [
        write_bits(*(np.concatenate(parts) for parts in zip(*row, strict=True))) for row in zip(*coded, strict=True)
    ]


def decode(codec: Codec, coded: Sequence[Coded]) -> tuple[Packed, Integers]:
    """What was encoded.

    Args:
        codec: of all rows.
        coded: the rows, at least one; from any shards.

    Returns:
        The rows end to end, and the frames of each, [R].

    Raises:
        ValueError: the bytes of some row are not such streams.
    """
    reader = _Rows(coded)
    try:
        kinds = reader.follow(0, repeat(CHAIN), [row.num_events for row in coded])
        events = np.where(kinds < FRAME, 0, kinds // FRAME)
        if events.max(initial=0) > codec.max_entries or kinds.min(initial=1) < 1:
            raise ValueError("an event of an impossible kind")
        layout = _Layout.of(events, reader.rows)
        of_frames = reader.rows[layout.is_frame]
        bests = reader.follow(1, np.where(layout.follows, CHAIN, codec.blank_id), reader.totals(of_frames))
        ranks, counts = layout.ranks[layout.ranks > 0], reader.totals(of_frames, layout.counts - 1)
        codes = reader.follow(2, np.where(ranks == 1, FIRST_CODE, CHAIN), counts)
        relative = reader.follow(3, _contexts_of_others(codec, layout, bests), counts)
    except IndexError as error:
        raise ValueError("the bits end early, or mean nothing") from error
    if not reader.at_end:
        raise ValueError("bits are left over")
    lens = reader.totals(reader.rows, np.where(layout.is_frame, 1, kinds))
    return _assemble(codec, layout, kinds, bests, codes, relative), lens


class _Rows:
    """Rows that are read together, stream by stream: what follows from a stream is computed for all at once."""

    def __init__(self, coded: Sequence[Coded]) -> None:
        self._coded, self._readers = coded, BitReader.of([row.data for row in coded])
        self.rows = np.repeat(np.arange(len(coded)), [row.num_events for row in coded])
        """Whose each event is, [E]."""

    def follow(self, stream: int, contexts: Integers | Iterator[int], counts: Sequence[int] | Integers) -> Integers:
        """Values of the next stream, end to end; so many of each row."""
        left = iter(contexts.tolist()) if isinstance(contexts, np.ndarray) else contexts
        values: list[int] = []
        for reader, row, count in zip(self._readers, self._coded, counts, strict=True):
            book = row.books[stream]
            values += reader.follow(book.lookups, book.shared, islice(left, int(count)))
        return np.array(values, np.int64)

    def totals(self, rows: Integers, weights: Integers | None = None) -> Integers:
        """Σ weights, or how many there are, of each row, [R]."""
        return np.bincount(rows, weights, len(self._coded)).astype(np.int64)

    @property
    def at_end(self) -> bool:
        return all(reader.at_end for reader in self._readers)


def _assemble(
    codec: Codec, layout: _Layout, kinds: Integers, bests: Integers, codes: Integers, relative: Integers
) -> Packed:
    before, after = (np.repeat(side, layout.counts - 1) for side in _neighbours(codec, layout, bests))
    other = layout.ranks > 0
    tokens, all_codes = np.empty(len(other), np.int64), np.empty(len(other), np.int64)
    tokens[~other], all_codes[~other] = bests, kinds[layout.is_frame] % FRAME
    tokens[other] = np.where(relative == BEFORE, before, np.where(relative == AFTER, after, relative - ELSE))
    all_codes[other] = codes
    if tokens.max(initial=0) >= codec.vocab_size or all_codes.max(initial=0) > codec.levels:
        raise ValueError("a token or a code is out of range")
    events = np.where(kinds < FRAME, 0, kinds // FRAME).astype(np.uint8)
    runs = kinds[~layout.is_frame].astype(np.uint8)
    return Packed(events, runs, tokens.astype(np.int32), all_codes.astype(np.uint8))


def _neighbours(codec: Codec, layout: _Layout, bests: Integers) -> tuple[Integers, Integers]:
    """The largest entry's token of the events before and after each frame, [W] each; runs and the ends are blank."""
    best = np.full(layout.num_places, codec.blank_id, np.int64)
    best[layout.places] = bests
    return best[layout.places - 1], best[layout.places + 1]


def _contexts_of_others(codec: Codec, layout: _Layout, bests: Integers) -> Integers:
    """Contexts beyond all values of the stream, so that none is ever its own value: by best token, then one for all."""
    contexts = np.repeat(ELSE + codec.vocab_size + bests, layout.counts)
    return np.where(layout.ranks == 1, contexts, ELSE + 2 * codec.vocab_size)[layout.ranks > 0]
