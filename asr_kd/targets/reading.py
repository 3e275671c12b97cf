"""Audio read ahead by several threads while the device computes, in an order that does not depend on them.

What cannot be read travels on with the reason.

Threads, not processes: libsndfile decodes without Python's lock, so two threads read twice as much as one, and there
is no reader that could be killed alone.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError
from asr_kd.targets.variants import Variant

BATCHES_AHEAD = 3
"""Batches that are read, or being read, beside the one that is worked on."""


@dataclass(frozen=True)
class Reading:
    """What came of reading an utterance."""

    utterance: Utterance
    waveforms: tuple[Tensor, ...]
    """[S] in each variant, in their order; none when it could not be read."""
    problem: str | None = None


def read_batches(
    batches: Sequence[Sequence[Utterance]], variants: Sequence[Variant], readers: int
) -> Generator[list[Reading], None, None]:
    """Batch after batch, in the order given, at most `BATCHES_AHEAD` in advance.

    Args:
        batches: what to read.
        variants: each utterance is read in all of these.
        readers: threads; 0 reads in between, in the caller's own.

    Raises:
        Exception: whatever a reader meets beyond audio that cannot be used.
    """
    if readers == 0:
        for batch in batches:
            yield [_read(utterance, variants) for utterance in batch]
        return
    waiting: deque[list[Future[Reading]]] = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="reader")
    try:
        for batch in batches:
            waiting.append([pool.submit(_read, utterance, variants) for utterance in batch])
            if len(waiting) > BATCHES_AHEAD:
                yield [future.result() for future in waiting.popleft()]
        while waiting:
            yield [future.result() for future in waiting.popleft()]
    finally:  # also when the caller stops in the middle: nothing more is read
        pool.shutdown(wait=True, cancel_futures=True)


def _read(utterance: Utterance, variants: Sequence[Variant]) -> Reading:
    try:
        waveform = read_utterance(utterance)
    except AudioError as error:
        return Reading(utterance, (), str(error))
    return Reading(utterance, tuple(variant.apply(waveform, utterance.id) for variant in variants))
