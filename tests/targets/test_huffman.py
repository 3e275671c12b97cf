"""Codes: never longer than an optimal one of their kind, complete, of at most 16 bits; bits come back as written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.targets.huffman import MAX_BITS, NOTHING, BitReader, code_lengths, code_of, lookup_of, write_bits

FAST = settings(deadline=None, max_examples=60)


def reader_of(data):
    [reader] = BitReader.of([data])
    return reader


def counts_of(values):
    return np.array(values, np.int64)


def test_lengths_known_by_hand():
    assert code_lengths(counts_of([5])).tolist() == [0]
    assert code_lengths(counts_of([1, 1])).tolist() == [1, 1]
    assert code_lengths(counts_of([4, 2, 1, 1])).tolist() == [1, 2, 3, 3]
    assert code_lengths(counts_of([])).tolist() == []


@FAST
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=60))
def test_codes_are_complete_and_within_one_bit_of_the_entropy(values):
    counts = counts_of(values)
    lengths = code_lengths(counts)
    assert (2.0**-lengths).sum() == 1
    shares = counts / counts.sum()
    if lengths.max() < MAX_BITS:
        assert (shares * lengths).sum() < -(shares * np.log2(shares)).sum() + 1


def test_no_code_is_longer_than_16_bits():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(counts_of(fibonacci))
    assert lengths.max() == MAX_BITS
    assert (2.0**-lengths).sum() == 1
    assert code_lengths(np.ones(1 << MAX_BITS, np.int64)).tolist() == [MAX_BITS] * (1 << MAX_BITS)
    with pytest.raises(ValueError, match="no codes of 16 bits"):
        code_lengths(np.ones((1 << MAX_BITS) + 1, np.int64))


@pytest.mark.parametrize("lengths", [[], [1], [1, 1, 1], [1, 2], [-1, 1], [17, 1], [0, 0]])
def test_lengths_of_no_code_are_refused(lengths):
    with pytest.raises(ValueError, match="lengths of codes"):
        code_of(np.arange(len(lengths)), counts_of(lengths))


def write(code, symbols):
    place = [code.symbols.tolist().index(symbol) for symbol in symbols]
    return write_bits(code.starts[place], code.lengths[place])


def test_bits_known_by_hand():
    code = code_of(np.array([7, 1, 2]), np.array([1, 2, 2]))  # 7: 0, 1: 10, 2: 11
    assert write(code, [7, 1, 2, 7, 7, 2]).tolist() == [0b01011001, 0b10000000]
    reader = reader_of(np.array([0b01011001, 0b10000000], np.uint8))
    assert reader.follow({}, lookup_of(code), [9] * 6) == [6, 0, 1, 6, 6, 1]
    assert reader.at_end


def test_symbol_zero_repeats_its_context_and_a_context_may_be_the_value_before():
    code = code_of(np.array([0, 5]), np.array([1, 1]))
    reader = reader_of(np.array([0b01001000], np.uint8))
    assert reader.follow({4: lookup_of(code)}, lookup_of(code), [8, -1, -1, 7, -1]) == [8, 4, 4, 7, 4]


@FAST
@given(st.lists(st.integers(0, 300), min_size=1, max_size=200))
def test_any_symbols_come_back(values):
    symbols, counts = np.unique(values, return_counts=True)
    code = code_of(symbols, code_lengths(counts))
    reader = reader_of(write(code, values))
    assert reader.follow({}, lookup_of(code), [999] * len(values)) == [value - 1 if value else 999 for value in values]
    assert reader.at_end


def test_reading_on_after_the_end_is_an_error():
    code = code_of(np.array([0, 5]), np.array([1, 1]))
    with pytest.raises(IndexError):
        reader_of(np.zeros(1, np.uint8)).follow({}, lookup_of(code), [0] * 10)
    with pytest.raises(IndexError):
        reader_of(np.zeros(1, np.uint8)).follow({}, NOTHING, [0])
    with pytest.raises(IndexError):
        reader_of(np.zeros(0, np.uint8)).follow({}, lookup_of(code), [0, 0])


@pytest.mark.parametrize(("byte", "count"), [(0b00000001, 7), (0, 0)])
def test_bits_that_are_left_over_are_noticed(byte, count):
    reader = reader_of(np.array([byte], np.uint8))
    reader.follow({}, lookup_of(code_of(np.array([0, 5]), np.array([1, 1]))), [0] * count)
    assert not reader.at_end
