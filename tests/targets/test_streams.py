"""Bits of packed frames: what comes out is what went in, in any vocabulary; damage is said, never read past."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.posteriors import keep_nucleus
from asr_kd.targets.codebook import SHARED, Book, Stream, fit, read_books, write_books
from asr_kd.targets.huffman import code_lengths
from asr_kd.targets.packing import Codec, Packed
from asr_kd.targets.streams import STREAMS, Coded, decode, encode, streams_of

FAST = settings(deadline=None, max_examples=40)


def pack(codec, seed, num_frames, sharpness):
    """Peaky frames: the blank, or one of few tokens that stay for some frames."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_frames, codec.vocab_size, generator=generator) * sharpness
    peaks = torch.randint(min(codec.vocab_size, 9), (num_frames // 2 + 1,), generator=generator).repeat_interleave(2)
    logits[range(num_frames), peaks[:num_frames]] += 8 * torch.rand(num_frames, generator=generator) + sharpness
    logits[: num_frames // 3, codec.blank_id] += 40
    kept = keep_nucleus(logits.softmax(-1), 0.01, codec.max_entries)
    return codec.pack(kept.tokens.numpy(), kept.probs.numpy())


def coded(codec, rows):
    streams = [streams_of(codec, row) for row in rows]
    books = [fit([row[part] for row in streams]) for part in range(len(STREAMS))]
    return books, encode(books, streams)


def assert_same(one: Packed, other: Packed) -> None:
    for part, again in zip(one, other, strict=True):
        assert part.dtype == again.dtype
        np.testing.assert_array_equal(part, again)


@FAST
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(0, 60), min_size=1, max_size=5),
    vocab_size=st.sampled_from([2, 29, 1024, 5000]),
    blank=st.sampled_from([0, 1]),
    sharpness=st.sampled_from([0.0, 2.0, 6.0]),
    max_entries=st.sampled_from([1, 3, 15]),
)
def test_any_frames_come_back(seed, lengths, vocab_size, blank, sharpness, max_entries):
    codec = Codec(vocab_size, blank, max_entries, certain_blank=0.005)
    rows = [pack(codec, seed + index, length, sharpness) for index, length in enumerate(lengths)]
    books, bits = coded(codec, rows)
    books = read_books(write_books(books), len(STREAMS))
    coded_rows = [Coded(books, data, len(row.events)) for row, data in zip(rows, bits, strict=True)]
    for row, one in zip(rows, coded_rows, strict=True):
        alone, lens = decode(codec, [one])
        assert_same(alone, row)
        assert lens.tolist() == [len(codec.unpack(row).tokens)]
    together, lens = decode(codec, coded_rows)
    assert_same(together, Packed(*(np.concatenate(parts) for parts in zip(*rows, strict=True))))
    assert lens.tolist() == lengths
    assert len(codec.unpack(together).tokens) == sum(lengths)


@pytest.mark.parametrize("length", [1, 255, 256, 700])
def test_certain_blanks_alone_take_next_to_nothing(length):
    codec = Codec(5000, 3, 15, certain_blank=0.005)
    row = codec.pack(np.full((length, 15), 3), np.eye(1, 15, dtype=np.float32).repeat(length, 0))
    books, [data] = coded(codec, [row])
    assert len(data) <= 1
    assert_same(decode(codec, [Coded(books, data, len(row.events))])[0], row)


def test_a_code_is_fitted_to_its_context_where_that_pays():
    generator = np.random.default_rng(0)
    contexts = generator.integers(0, 3, 3000)
    values = np.where(contexts == 2, generator.integers(0, 8, 3000), 10 + contexts)
    stream = Stream(values, contexts)
    book = fit([stream])
    assert sorted(book.lengths) == [0, 1, 2], "with nothing in common, each has its own and none is shared"
    assert book.lengths[0][1].tolist() == [0], "what always follows takes no bits"
    [(_, lengths)] = book.codes_of([stream])
    assert lengths.sum() == 3 * (contexts == 2).sum()
    few = fit([Stream(values[:9], contexts[:9])])
    assert list(few.lengths) == [SHARED], "a table for three values does not pay"


def test_further_contexts_in_thousands_share_one_code():
    generator = np.random.default_rng(0)
    stream = Stream(generator.integers(0, 50, 6000), 100 + generator.integers(0, 5000, 6000))
    book = fit([stream])
    assert list(book.lengths) == [SHARED]
    assert len(write_books([book])) < 120


def test_equal_streams_give_equal_bytes_in_any_process():
    codec = Codec(29, 0, 8, 0.005)
    made = [coded(codec, [pack(codec, seed, 50, 2.0) for seed in range(4)]) for _ in range(2)]
    assert write_books(made[0][0]).tobytes() == write_books(made[1][0]).tobytes()
    assert [data.tobytes() for data in made[0][1]] == [data.tobytes() for data in made[1][1]]


@FAST
@given(seed=st.integers(0, 30), flips=st.lists(st.integers(0, 10_000), min_size=1, max_size=4), cut=st.integers(0, 3))
def test_damaged_bits_are_refused_or_frames_all_the_same(seed, flips, cut):
    codec = Codec(29, 0, 8, 0.005)
    row = pack(codec, seed, 40, 2.0)
    books, [data] = coded(codec, [row])
    damaged = data[: len(data) - cut].copy()
    for flip in flips:
        damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
    try:
        stored = codec.unpack(decode(codec, [Coded(books, damaged, len(row.events))])[0])
    except ValueError:
        return
    assert stored.tokens.min() >= 0
    assert stored.tokens.max() < 29
    assert (stored.probs.sum(-1) <= 1 + 1e-6).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data, events: (data[:-1], events), "end early"),
        (lambda data, events: (np.append(data, np.uint8(0)), events), "left over"),
        (lambda data, events: (data, events + 40), "end early|left over|impossible"),
        (lambda data, events: (data, 0), "left over"),
    ],
)
def test_too_few_or_too_many_bits_are_refused(change, message):
    codec = Codec(29, 0, 8, 0.005)
    row = pack(codec, 0, 40, 2.0)
    books, [data] = coded(codec, [row])
    with pytest.raises(ValueError, match=message):
        decode(codec, [Coded(books, *change(data, len(row.events)))])


def constant(value):
    """A book that reads `value` from no bits at all."""
    return Book({SHARED: (np.array([value + 1]), code_lengths(np.array([1])))})


@pytest.mark.parametrize(
    ("kind", "best", "message"),
    [
        (256 * 9, 1, "impossible kind"),  # more entries than a frame has
        (256 + 25, 1, "out of range"),  # a tail's code beyond the last
        (256, 29, "out of range"),  # a token beyond the vocabulary
    ],
)
def test_books_that_say_the_impossible_are_refused(kind, best, message):
    books = [constant(kind), constant(best), Book({}), Book({})]
    with pytest.raises(ValueError, match=message):
        decode(Codec(29, 0, 8, 0.005), [Coded(books, np.zeros(0, np.uint8), 2)])


@pytest.mark.parametrize("symbols", [[3, 3], [-2, 1]])
def test_books_with_impossible_symbols_are_refused(symbols):
    book = Book({SHARED: (np.array(symbols), np.array([1, 1]))})
    with pytest.raises(ValueError, match="do not rise"):
        read_books(write_books([book]), 1)


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[::-1], lambda data: data[:0]])
def test_damaged_books_are_refused(damage):
    codec = Codec(29, 0, 8, 0.005)
    books, _ = coded(codec, [pack(codec, 0, 40, 2.0)])
    with pytest.raises(ValueError, match="codes"):
        read_books(damage(write_books(books)), len(STREAMS))
    for count in (3, 5):
        with pytest.raises(ValueError, match="codes"):
            read_books(write_books(books), count)
