"""Cost of running each system: parameters, bytes, arithmetic, real-time factor, chunk latency, memory, energy.

All systems are timed in the same run on the same utterances, in turn, so that load on the machine affects all of them
alike.

Shapes: S samples.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.errors import EvaluationError
from asr_kd.evaluation.cost_measures import (
    NO_UTTERANCE,
    Measured,
    arithmetic,
    int8_size,
    measure_energy,
    measure_memory,
    no_memory,
)
from asr_kd.evaluation.system import Job, System, can_stream, streamed, usual_job, whole
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.weights import WEIGHTS
from asr_kd.progress import SILENT, Progress
from asr_kd.runtime.bundle import MODEL

WEIGHT_FILES = (WEIGHTS, MODEL)
"""Files with the weights of a model folder or a bundle."""


def cost_report(
    systems: Sequence[System],
    waveforms: Sequence[Tensor],
    *,
    memory: bool,
    progress: Progress = SILENT,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, Any]]:
    """The cost of each system, by its key, as plain data; a missing value is None beside its reason.

    Args:
        waveforms: utterances [S] that all systems are timed on; where a system streams, in packets too.
        memory: whether each system is also opened in its own process.

    Raises:
        EvaluationError: a system's weights are missing.
    """
    jobs = {f"{system.key} whole": whole(system.recognizer) for system in systems}
    jobs |= {
        f"{system.key} streamed": streamed(system.recognizer) for system in systems if can_stream(system.recognizer)
    }
    factors = real_time_factors(jobs, waveforms, progress=progress, clock=clock)
    middle = sorted(waveforms, key=len)[len(waveforms) // 2] if waveforms else None
    found = {}
    for done, system in enumerate(systems, start=1):
        macs, int8, energy = arithmetic(system, middle), int8_size(system), _energy(system, waveforms)
        chunks, chunk_reason = _chunks(system, waveforms)
        found[system.key] = {
            "parameters": system.parameters,
            "macs_per_second": macs.value,
            "macs_of": macs.note,
            "size_bytes": {
                "fp32": weights_bytes(system.weights) if system.weights is not None else system.size_bytes,
                "int8": int8.value,
                "int8_of": int8.note,
            },
            "rtf": {kind: factors.get(f"{system.key} {kind}") for kind in ("whole", "streamed")},
            "rtf_utterances": len(waveforms),
            "rtf_threads": 1,
            **_memory(system, waveforms, memory),
            "chunk_ms": chunks,
            "chunk_reason": chunk_reason,
            "energy_j_per_hour": energy.value,
            "energy_reason": energy.note,
        }
        progress.update("cost", done, len(systems), "systems")
    return found


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
    counted. The first waveform is run once more before, untimed.
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


def _memory(system: System, waveforms: Sequence[Tensor], wanted: bool) -> dict[str, Any]:
    if not wanted:
        return no_memory("not measured: evaluate.memory is off")
    if not waveforms:
        return no_memory(f"not measured: {NO_UTTERANCE}")
    return measure_memory(system, [len(waveform) for waveform in waveforms])


def _chunks(system: System, waveforms: Sequence[Tensor]) -> tuple[dict[str, Any] | None, str | None]:
    if not can_stream(system.recognizer):
        return None, "it does not stream"
    times = chunk_milliseconds(system.recognizer, waveforms)
    if not times:
        return None, "no utterance of two chunks is timed (evaluate.rtf_utterances)"
    middle, high = np.percentile(times, [50, 99])
    return {"p50": float(middle), "p99": float(high), "chunks": len(times)}, None


def _energy(system: System, waveforms: Sequence[Tensor]) -> Measured:
    """Joules an hour of speech."""
    if not waveforms:
        return Measured(None, NO_UTTERANCE)
    if system.device != "cpu":
        return Measured(None, f"not readable here for {system.device}")
    job = usual_job(system.recognizer)
    joules, reason = measure_energy(lambda: [job(waveform) for waveform in waveforms])
    hours = sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE / 3600
    return Measured(None if joules is None else joules / hours, reason)
