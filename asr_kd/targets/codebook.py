"""The codes of a stream of values: which contexts have one of their own, and how all are written down.

Codes are fitted to the values of one shard, so equal shards give equal codes, and no worker needs another's. Knows
values and contexts, not what they mean.
"""

import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr_kd.targets.huffman import NOTHING, Code, Integers, Lookup, code_lengths, code_of, lookup_of

SHARED = -1
"""The context whose code all contexts without one of their own use."""
TABLE_BITS, SYMBOL_BITS = 16, 8
"""What a code takes to write down, roughly: one of its own must save more."""


class Stream(NamedTuple):
    """Values and the context of each, all at least 0."""

    values: Integers
    contexts: Integers


Lengths = dict[int, tuple[Integers, Integers]]
"""By context: symbols, rising, and the bits of each one's code."""


class Book:
    """The codes of one stream. A value equal to its context is symbol 0; value v otherwise is symbol v + 1.

    Args:
        lengths: of the codes; SHARED among the contexts unless all have their own.

    Raises:
        ValueError: lengths that belong to no code.
    """

    def __init__(self, lengths: Lengths) -> None:
        self.lengths = lengths
        self._codes: dict[int, Code] = {context: code_of(*entry) for context, entry in lengths.items()}

    @cached_property
    def lookups(self) -> dict[int, Lookup]:
        """For reading: the codes of contexts that have their own."""
        return {context: lookup_of(code) for context, code in self._codes.items() if context != SHARED}

    @cached_property
    def shared(self) -> Lookup:
        """For reading: the code of all other contexts."""
        return lookup_of(self._codes[SHARED]) if SHARED in self._codes else NOTHING

    def codes_of(self, streams: Sequence[Stream]) -> list[tuple[Integers, Integers]]:
        """For each stream the codes of its values, left-aligned in 16 bits, and their lengths.

        All streams must be among those that the book was fitted to.
        """
        contexts, symbols = _contexts_and_symbols(streams)
        codes, lengths = np.zeros(len(symbols), np.int64), np.zeros(len(symbols), np.int64)
        used = np.where(np.isin(contexts, list(self._codes)), contexts, SHARED)
        for context in np.unique(used).tolist():
            here, code = used == context, self._codes[context]
            order = np.argsort(code.symbols)
            place = order[np.searchsorted(code.symbols, symbols[here], sorter=order)]
            codes[here], lengths[here] = code.starts[place], code.lengths[place]
        ends = np.cumsum([len(stream.values) for stream in streams])[:-1]
        return list(zip(np.split(codes, ends), np.split(lengths, ends), strict=True))


def fit(streams: Sequence[Stream]) -> Book:
    """The codes that make these streams short."""
    context_of, coded = _contexts_and_symbols(streams)
    span = int(coded.max(initial=0)) + 1
    pairs, counts = np.unique(context_of * span + coded, return_counts=True)
    contexts, symbols = np.divmod(pairs, span)
    used = np.where(np.isin(contexts, _worth_their_own(contexts, symbols, counts)), contexts, SHARED)
    lengths: Lengths = {}
    for context in np.unique(used).tolist():
        here, which = np.unique(symbols[used == context], return_inverse=True)
        totals = np.bincount(which, weights=counts[used == context]).astype(np.int64)
        lengths[context] = here, code_lengths(totals)
    return Book(lengths)


def _contexts_and_symbols(streams: Sequence[Stream]) -> tuple[Integers, Integers]:
    nothing = np.zeros(0, np.int64)
    contexts = np.concatenate([nothing, *(stream.contexts for stream in streams)])
    values = np.concatenate([nothing, *(stream.values for stream in streams)])
    return contexts, np.where(values == contexts, 0, values + 1)


def _worth_their_own(contexts: Integers, symbols: Integers, counts: Integers) -> Integers:
    """Contexts whose symbols are so unlike those of all that a code of their own saves more than it takes."""
    known, which = np.unique(contexts, return_inverse=True)
    of_context = np.bincount(which, weights=counts)[which]
    of_symbol = np.bincount(symbols, weights=counts)[symbols]
    saved = counts * np.log2(counts * counts.sum() / (of_context * of_symbol))
    return known[np.bincount(which, weights=saved - SYMBOL_BITS) > TABLE_BITS]


def write_books(books: Sequence[Book]) -> NDArray[np.uint8]:
    """Books as bytes: contexts and sizes, then rising symbols as differences, then lengths; compressed."""
    numbers: list[Integers] = []
    for book in books:
        entries = sorted(book.lengths.items())
        contexts, sizes = [context for context, _ in entries], [len(symbols) for _, (symbols, _) in entries]
        numbers.append(np.array([len(entries), *np.subtract(contexts, SHARED), *sizes], np.int64))
        numbers += [np.diff(symbols, prepend=0) for _, (symbols, _) in entries]
        numbers += [lengths for _, (_, lengths) in entries]
    # Most numbers are small: with the bytes of equal weight side by side they compress to little more than one each.
    planes = np.concatenate(numbers).astype("<i4").view(np.uint8).reshape(-1, 4).T
    return np.frombuffer(zlib.compress(planes.tobytes(), level=9), np.uint8)


def read_books(data: NDArray[np.uint8], count: int) -> list[Book]:
    """What `write_books` wrote.

    Raises:
        ValueError: these are not `count` books.
    """
    try:
        planes = np.frombuffer(zlib.decompress(data.tobytes()), np.uint8)
        numbers = _Numbers(np.ascontiguousarray(planes.reshape(4, -1).T).view("<i4").ravel().astype(np.int64))
        books = [_read_book(numbers) for _ in range(count)]
    except zlib.error as error:
        raise ValueError(f"codes cannot be read ({error})") from error
    if numbers.left:
        raise ValueError("codes are followed by something else")
    return books


def _read_book(numbers: "_Numbers") -> Book:
    size = int(numbers.take(1)[0])
    contexts = numbers.take(size) + SHARED
    sizes = numbers.take(size)
    symbols = [np.cumsum(numbers.take(int(count))) for count in sizes]
    if any(here.min(initial=0) < 0 or (np.diff(here) < 1).any() for here in symbols):
        raise ValueError("symbols of codes do not rise")
    return Book(
        {
            int(context): (of_context, numbers.take(len(of_context)))
            for context, of_context in zip(contexts, symbols, strict=True)
        }
    )


class _Numbers:
    """Integers handed out from the front."""

    def __init__(self, numbers: Integers) -> None:
        self._numbers = numbers
        self.left = len(numbers)

    def take(self, count: int) -> Integers:
        if not 0 <= count <= self.left:
            raise ValueError("codes end early")
        start = len(self._numbers) - self.left
        self.left -= count
        return self._numbers[start : start + count]
