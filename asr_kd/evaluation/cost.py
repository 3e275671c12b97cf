"""What a system costs to run: parameters, bytes, real-time factor on one thread, milliseconds a chunk.

All systems are timed in the same run on the same utterances, in turn, so that a noisy machine disturbs all
of them alike. Knows nothing of errors.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.results import Cost
from asr_kd.evaluation.stability import PACKET_SAMPLES
from asr_kd.evaluation.systems import Recognizer, System
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.models.weights import WEIGHTS
from asr_kd.progress import SILENT, Progress
from asr_kd.runtime.bundle import MODEL

Job = Callable[[Tensor], object]
"""What is timed: one utterance [S] through one system."""

WEIGHT_FILES = (WEIGHTS, MODEL)
"""Where a model folder or a bundle keeps its weights."""


def measure_costs(
    systems: Sequence[System],
    waveforms: Sequence[Tensor],
    *,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Cost]:
    """Cost of every system, by its key.

    Args:
        systems: timed through the same door that gives their transcripts; those that stream, streaming as well.
        waveforms: utterances to time, each [S]; none measures no real-time factor.
        clock: seconds; another one in tests.

    Raises:
        EvaluationError: a system's weights are not where it says.
    """
    jobs = {f"{system.key} whole": whole(system.recognizer) for system in systems}
    jobs |= {
        f"{system.key} streamed": streamed(system.recognizer) for system in systems if can_stream(system.recognizer)
    }
    factors = real_time_factors(jobs, waveforms, progress=progress, clock=clock)
    return {
        system.key: Cost(
            parameters=system.parameters,
            size_bytes=weights_bytes(system.weights) if system.weights is not None else system.size_bytes,
            real_time_factor=factors.get(f"{system.key} whole"),
            streaming_real_time_factor=factors.get(f"{system.key} streamed"),
            rtf_utterances=len(waveforms),
            device=system.device,
        )
        for system in systems
    }


def real_time_factors(
    jobs: Mapping[str, Job],
    waveforms: Sequence[Tensor],
    *,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median over utterances of computing seconds per second of audio, by job; one thread, one utterance at a time.

    Features and decoding count, reading the file does not. The thread limit is torch's; a recognizer of
    another engine sets its own to one.
    """
    if not waveforms:
        return {}
    factors: dict[str, list[float]] = {name: [] for name in jobs}
    with _one_thread():
        for job in jobs.values():
            job(waveforms[0])  # first calls allocate and compile: not timed
        for done, waveform in enumerate(waveforms, start=1):
            for name, job in jobs.items():
                start = clock()
                job(waveform)
                factors[name].append((clock() - start) * SAMPLE_RATE / len(waveform))
            progress.update("real-time factor", done, len(waveforms), "utterances")
    return {name: median(measured) for name, measured in factors.items()}


def chunk_milliseconds(
    recognizer: Any, waveforms: Sequence[Tensor], *, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Computing time of every chunk of streams over these waveforms [S], one thread: features, model and decoding.

    Packets are as long as a chunk, so that each completes one; the first and the end of a stream, which do not, are not
    counted.

    Args:
        recognizer: one that streams (`can_stream`).
        waveforms: the first is heard once more before, untimed.
        clock: seconds.
    """
    packet = recognizer.context.chunk_frames * FRAME_SHIFT_MS * SAMPLE_RATE // 1000
    times: list[float] = []
    with _one_thread():
        for number, waveform in enumerate([*waveforms[:1], *waveforms]):
            stream = recognizer.stream()
            for place, samples in enumerate(waveform.split(packet)):
                start = clock()
                stream.accept(samples)
                if number and place and len(samples) == packet:
                    times.append(1000 * (clock() - start))
    return times


def whole(recognizer: Recognizer) -> Job:
    """An utterance at once."""
    return lambda waveform: recognizer.transcribe([waveform])


def can_stream(recognizer: Recognizer) -> bool:
    """Whether it can open streams: it has `stream()`, and a chunked context."""
    return hasattr(recognizer, "stream") and getattr(recognizer, "context", None) is not None


def streamed(recognizer: Any) -> Job:
    """An utterance in packets of 100 ms."""

    def job(waveform: Tensor) -> None:
        stream = recognizer.stream()
        for packet in waveform.split(PACKET_SAMPLES):
            stream.accept(packet)
        stream.final()

    return job


def weights_bytes(path: Path) -> int:
    """Size of a weight file, or of the one in a model folder or bundle, bytes.

    Raises:
        EvaluationError: no such file.
    """
    candidates = [path / name for name in WEIGHT_FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.stat().st_size
    raise EvaluationError(
        "holds no weights" if path.is_dir() else "no such file",
        where=path,
        expected=f"a weight file, or a folder with {' or '.join(WEIGHT_FILES)}",
        remedy="Train or export the model again",
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
