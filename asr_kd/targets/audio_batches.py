"""Batches of audio for a teacher: by duration, by the teacher assigned to each utterance, read ahead by threads.

Threads suffice for reading: libsndfile decodes without Python's global lock.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError
from asr_kd.features.fbank import batches_by_duration
from asr_kd.targets.settings import Variant
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.ensemble import OutOfFold

BATCHES_AHEAD = 3
"""Batches that are read, or being read, beside the one that is worked on."""


@dataclass(frozen=True)
class Reading:
    """Waveforms of an utterance, or why it cannot be read."""

    utterance: Utterance
    waveforms: tuple[Tensor, ...]
    """[S] in each variant, in their order; none when it could not be read."""
    problem: str | None = None


def read_batches(
    batches: Sequence[Sequence[Utterance]], variants: Sequence[Variant], readers: int
) -> Generator[list[Reading], None, None]:
    """Batch after batch, in the order given, each utterance in all variants, at most `BATCHES_AHEAD` in advance.

    `readers` are threads; 0 reads in between, in the caller's own.
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


def plan_batches(utterances: Iterable[Utterance], batch_seconds: float) -> list[list[Utterance]]:
    """Return batches of similar durations, from short to long; see `batches_by_duration`."""
    ordered = sorted(utterances, key=lambda item: (item.duration, item.id))
    batches = batches_by_duration([item.duration for item in ordered], batch_seconds)
    return [[ordered[index] for index in batch] for batch in batches]


def batches_by_teacher(
    teacher: Teacher, utterances: Iterable[Utterance], batch_seconds: float
) -> list[tuple[Teacher, list[Utterance]]]:
    """Return batches as of `plan_batches`, each with the one teacher that labels it."""
    groups: dict[int, tuple[Teacher, list[Utterance]]] = {}
    for utterance in utterances:
        chosen = teacher.member_for(utterance.id) if isinstance(teacher, OutOfFold) else teacher
        groups.setdefault(id(chosen), (chosen, []))[1].append(utterance)
    return [(chosen, batch) for chosen, members in groups.values() for batch in plan_batches(members, batch_seconds)]
