"""Everything that running a system takes, put together as plain data: `models` → system → `cost` of results.json.

Teacher and students alike, in one run on the same utterances.

Shapes: S samples.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.evaluation.compute import arithmetic, int8_size
from asr_kd.evaluation.cost import can_stream, chunk_milliseconds, streamed, whole
from asr_kd.evaluation.energy import measure_energy
from asr_kd.evaluation.memory import Memory, measure_memory
from asr_kd.evaluation.results import Cost
from asr_kd.evaluation.systems import System
from asr_kd.progress import SILENT, Progress


def all_costs(
    systems: Sequence[System],
    timed: Mapping[str, Cost],
    waveforms: Sequence[Tensor],
    *,
    memory: bool,
    progress: Progress = SILENT,
) -> dict[str, dict[str, Any]]:
    """What each system takes, by its key; None stands beside its reason.

    Args:
        timed: what `measure_costs` found, by key.
        waveforms: the utterances [S] that it timed.
        memory: whether each system is opened in a process of its own.
    """
    found = {}
    for done, system in enumerate(systems, start=1):
        found[system.key] = _cost(system, timed[system.key], waveforms, memory)
        progress.update("cost", done, len(systems), "systems")
    return found


def _cost(system: System, timed: Cost, waveforms: Sequence[Tensor], memory: bool) -> dict[str, Any]:
    middle = sorted(waveforms, key=len)[len(waveforms) // 2] if waveforms else None
    macs, int8 = arithmetic(system, middle), int8_size(system)
    return {
        "parameters": timed.parameters,
        "macs_per_second": macs.macs_per_second,
        "macs_of": macs.of,
        "size_bytes": {"fp32": timed.size_bytes, "int8": int8.size_bytes, "int8_of": int8.of},
        "rtf": {"whole": timed.real_time_factor, "streamed": timed.streaming_real_time_factor},
        "rtf_utterances": timed.rtf_utterances,
        "rtf_threads": 1,
        **_memory(system, waveforms, memory),
        **_chunks(system, waveforms),
        **_energy(system, waveforms),
    }


def _memory(system: System, waveforms: Sequence[Tensor], wanted: bool) -> dict[str, Any]:
    found = Memory(None, None, "not measured: evaluate.memory is off")
    if wanted and not waveforms:
        found = Memory(None, None, "not measured: no utterance is timed (evaluate.rtf_utterances)")
    elif wanted:
        found = measure_memory(system, [len(waveform) for waveform in waveforms])
    return {"rss_bytes": found.peak_bytes, "rss_before_bytes": found.before_bytes, "rss_reason": found.reason}


def _chunks(system: System, waveforms: Sequence[Tensor]) -> dict[str, Any]:
    if not can_stream(system.recognizer):
        return {"chunk_ms": None, "chunk_reason": "it does not stream"}
    times = chunk_milliseconds(system.recognizer, waveforms)
    if not times:
        return {"chunk_ms": None, "chunk_reason": "no utterance of two chunks is timed (evaluate.rtf_utterances)"}
    middle, high = np.percentile(times, [50, 99])
    return {"chunk_ms": {"p50": float(middle), "p99": float(high), "chunks": len(times)}, "chunk_reason": None}


def _energy(system: System, waveforms: Sequence[Tensor]) -> dict[str, Any]:
    if not waveforms:
        return {"energy_j_per_hour": None, "energy_reason": "no utterance is timed (evaluate.rtf_utterances)"}
    if system.device != "cpu":
        return {"energy_j_per_hour": None, "energy_reason": f"not readable here for {system.device}"}
    job = streamed(system.recognizer) if can_stream(system.recognizer) else whole(system.recognizer)

    def transcribe_all() -> None:
        for waveform in waveforms:
            job(waveform)

    used = measure_energy(transcribe_all)
    hours = sum(len(waveform) for waveform in waveforms) / SAMPLE_RATE / 3600
    return {
        "energy_j_per_hour": None if used.joules is None else used.joules / hours,
        "energy_reason": used.reason,
    }
