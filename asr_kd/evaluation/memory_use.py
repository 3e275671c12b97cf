"""Memory of one system, measured in its own process: `python -P -m asr_kd.evaluation.memory_use`.

The process reads from its standard input as JSON what to open, and writes JSON. It transcribes noise of the given
lengths, because memory depends on nothing else. It measures the largest resident size since its start (Linux,
`VmHWM`), Python and torch included, and the resident size before the model was opened.

Shapes: S samples.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from asr_kd.errors import AsrKdError
from asr_kd.evaluation.open_systems import TeacherRecognizer
from asr_kd.evaluation.system import System, Transcriber
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.teachers.opening import open_teacher_source
from asr_kd.teachers.settings import TeacherSource

STATUS = Path("/proc/self/status")
TIMEOUT_SECONDS = 600
LOUDNESS = 0.01


class Memory(NamedTuple):
    """Resident memory of a system's own process."""

    peak_bytes: int | None
    """While it transcribed, one utterance at a time."""
    before_bytes: int | None
    """With everything imported, before the model was opened."""
    reason: str | None
    """Why there is no value."""


def measure_memory(system: System, num_samples: Sequence[int]) -> Memory:
    """Open a system in its own process and transcribe utterances of these lengths.

    Streams where it can: that is how it would run.
    """
    opening = how_to_open(system)
    if opening is None:
        return Memory(None, None, "not measured: it cannot be opened again from a folder or source")
    if not STATUS.is_file():
        return Memory(None, None, "not readable here: no /proc/self/status")
    task = json.dumps({"open": opening, "num_samples": list(num_samples)})
    command = [sys.executable, "-P", "-m", __name__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, input=task, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True, env=environment
        )
        found = json.loads(done.stdout)
        return Memory(int(found["peak_bytes"]), int(found["before_bytes"]), None)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return Memory(None, None, f"not measured: its own process failed ({lines[-1] if lines else 'no message'})")


def how_to_open(system: System) -> dict[str, Any] | None:
    """Plain data that opens the system again in another process; None where there is none."""
    if system.weights is not None and system.weights.is_dir():
        return {"folder": str(system.weights.resolve())}
    source = system.details.get("source")
    if isinstance(source, str) and not source.startswith("recipe:"):
        return {"source": source, "precision": system.details.get("precision", "fp32")}
    return None


def resident_bytes(name: str) -> int:
    """A field of this process' status, such as VmRSS or VmHWM, bytes.

    Raises:
        AsrKdError: the field is not there.
    """
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return 1024 * int(value.split()[0])
    raise AsrKdError(f"has no {name}", where=STATUS, expected="a Linux system with process memory in /proc")


def main() -> None:
    """The process: JSON in, JSON out."""
    task = json.loads(sys.stdin.read())
    torch.set_num_threads(1)
    before = resident_bytes("VmRSS")
    recognizer = _open(task["open"])
    generator = torch.Generator().manual_seed(0)
    for samples in task["num_samples"]:
        _transcribe(recognizer, LOUDNESS * torch.randn(samples, generator=generator))
    sys.stdout.write(json.dumps({"peak_bytes": resident_bytes("VmHWM"), "before_bytes": before}))


def _open(opening: dict[str, Any]) -> Transcriber:
    if "folder" in opening:
        return open_recognizer(opening["folder"])
    return TeacherRecognizer(open_teacher_source(TeacherSource(**opening)))


def _transcribe(recognizer: Any, waveform: Tensor) -> None:
    if getattr(recognizer, "context", None) is None:
        recognizer.transcribe([waveform])
        return
    stream = recognizer.stream()
    for packet in waveform.split(1_600):
        stream.accept(packet)
    stream.final()


if __name__ == "__main__":
    main()
