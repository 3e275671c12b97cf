"""Canonical Huffman codes of at most 16 bits, and bits read through them. Knows integers, not what they mean.

A code is known by its lengths alone: symbols are ordered by length, then by value, and codes count upwards. Aligned to
the left of 16 bits, codes cut the numbers below 2¹⁶ into consecutive stretches, one a symbol.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

MAX_BITS = 16
Integers = NDArray[np.int64]


class Code(NamedTuple):
    """One code: symbols in the order of their codes."""

    starts: Integers
    """First number of 16 bits that begins with the symbol's code."""
    lengths: Integers
    symbols: Integers


class Lookup(NamedTuple):
    """One code for reading: what every number of as many bits as its longest code begins with."""

    entries: list[tuple[int, int]]
    """Length and symbol."""
    shift: int
    """From 16 bits to those."""


NOTHING = Lookup([], 0)
"""The code of a context that never occurred: reading with it is an IndexError."""


def code_lengths(counts: Integers) -> Integers:
    """Bits of each symbol's code, by how often it occurs (at least once); a symbol that is alone needs none.

    Raises:
        ValueError: more symbols than codes.
    """
    if len(counts) > 1 << MAX_BITS:
        raise ValueError(f"{len(counts)} symbols have no codes of {MAX_BITS} bits")
    lengths = _depths(counts.tolist())
    while lengths.max(initial=0) > MAX_BITS:  # flatter counts give flatter trees, all-equal ones the flattest
        counts = (counts + 1) // 2
        lengths = _depths(counts.tolist())
    return lengths


def _depths(counts: list[int]) -> Integers:
    """Depth of each leaf in a Huffman tree; equal weights are joined in the order in which they came to be."""
    parents = [0] * max(2 * len(counts) - 1, 0)
    heap = [(count, leaf) for leaf, count in enumerate(counts)]
    heapq.heapify(heap)
    for node in range(len(counts), len(parents)):
        one, other = heapq.heappop(heap), heapq.heappop(heap)
        parents[one[1]] = parents[other[1]] = node
        heapq.heappush(heap, (one[0] + other[0], node))
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return np.array(depths[: len(counts)], np.int64)


def code_of(symbols: Integers, lengths: Integers) -> Code:
    """The code with these lengths.

    Raises:
        ValueError: no complete code has such lengths.
    """
    if not len(symbols) or lengths.min() < 0 or lengths.max() > MAX_BITS:
        raise ValueError("lengths of codes are out of range")
    shares = 1 << (MAX_BITS - lengths)
    if shares.sum() != 1 << MAX_BITS:
        raise ValueError("lengths of codes do not belong to one code")
    order = np.lexsort((symbols, lengths))
    return Code(np.cumsum(shares[order]) - shares[order], lengths[order], symbols[order])


def lookup_of(code: Code) -> Lookup:
    """The same code for reading."""
    longest = int(code.lengths[-1])
    entries: list[tuple[int, int]] = []
    for length, symbol in zip(code.lengths.tolist(), code.symbols.tolist(), strict=True):
        entries += [(length, symbol)] * (1 << (longest - length))
    return Lookup(entries, MAX_BITS - longest)


def write_bits(codes: Integers, lengths: Integers) -> NDArray[np.uint8]:
    """Codes, left-aligned in 16 bits, as consecutive bits, the highest first, filled up to whole bytes with zeros."""
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.packbits((np.repeat(codes, lengths) >> (MAX_BITS - 1 - place) & 1).astype(np.uint8))


class BitReader:
    """Reads symbols one after the other; made by `BitReader.of`.

    Args:
        windows: the 16 bits from each bit on, and from the end on.
    """

    def __init__(self, windows: list[int]) -> None:
        self._bit = 0
        self._num_bits = len(windows) - 1
        self._windows = windows

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.uint8]]) -> list[Self]:
        """One for each row of whole bytes; all at once, because rows are short and every call costs its own time."""
        beyond = np.zeros(3, np.uint8)
        padded = np.concatenate([part for data in rows for part in (data, beyond)]).astype(np.int32)
        three = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
        windows = ((three[:, None] >> np.arange(8, 0, -1)) & 0xFFFF).ravel().tolist()
        readers, first = [], 0
        for data in rows:
            readers.append(cls(windows[8 * first : 8 * (first + len(data)) + 1]))
            first += len(data) + len(beyond)
        return readers

    def follow(self, lookups: Mapping[int, Lookup], other: Lookup, contexts: Iterable[int]) -> list[int]:
        """Values of consecutive symbols, each read with its context's code.

        Symbol 0 means the context itself, s + 1 the value s. This loop is what reading a store takes.

        Args:
            lookups: by context.
            other: for contexts that have none of their own.
            contexts: one a symbol, at least 0; −1 is the value before, at first 0.

        Raises:
            IndexError: the bits end, or there is no code.
        """
        windows, bit, value, code_for = self._windows, self._bit, 0, lookups.get
        values: list[int] = []
        append = values.append
        for context in contexts:
            if context < 0:
                context = value
            entries, shift = code_for(context, other)
            length, symbol = entries[windows[bit] >> shift]
            bit += length
            value = symbol - 1 if symbol else context
            append(value)
        self._bit = bit
        return values

    @property
    def at_end(self) -> bool:
        """Whether all was read but for the bits that fill the last byte, and those are zeros."""
        rest = self._num_bits - self._bit
        return 0 <= rest < 8 and self._windows[self._bit] == 0
