"""Measure the cost of one model: multiplications a second of speech, bytes of weights, energy and memory.

Energy is read from the counters of Linux powercap (Intel and AMD RAPL). A counter covers a whole processor package with
everything else that runs on it.

Memory is measured in a separate process, `python -P -m asr_kd.evaluation.cost_measures`, which reads from its standard
input as JSON what to open, transcribes noise of the given lengths (memory depends on nothing else) and writes JSON. It
reports the largest resident size since its start (Linux, `VmHWM`), Python, torch and a language model included, and
the resident size before the model was opened.

Shapes: S samples.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from asr_kd.audio import SAMPLE_RATE
from asr_kd.decoding.beam import open_decoder
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.errors import AsrKdError, BundleError
from asr_kd.evaluation.open_systems import TeacherRecognizer
from asr_kd.evaluation.system import System, Transcriber, usual_job
from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.files import sha256_of_file
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.weights import WEIGHTS
from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.bundle import DESCRIPTION as BUNDLE
from asr_kd.runtime.bundle import read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.settings import TeacherSource

INT8_FILES = ("model.int8.onnx", "model.int8.safetensors")
"""Files with quantised weights in a folder."""
FLOAT_BYTES = 4


class Measured(NamedTuple):
    """A quantity, and what it is of, or why there is none."""

    value: float | None
    note: str | None = None


NO_UTTERANCE = "no utterance is timed (evaluate.rtf_utterances)"


def count_macs(job: Callable[[], object]) -> int:
    """Multiply-accumulates of the matrix products and convolutions that torch runs in `job`; half its FLOPs.

    What is done element by element, softmaxes and Fourier transforms are not counted.
    """
    # torch's counter covers neither the CPU's fused attention nor the fused Transformer layers.
    attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=attention) as counter:
            job()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return int(counter.get_total_flops()) // 2


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def arithmetic(system: System, waveform: Tensor | None) -> Measured:
    """MACs a second of speech.

    A streaming model's are those of one chunk, whose left context is always full, divided by the chunk's length.
    Attention over a whole utterance grows with it, so other models are counted on one [S], divided by its length.
    """
    recognizer: Any = system.recognizer
    backend: Any = getattr(recognizer, "backend", None)
    if isinstance(backend, TorchBackend) and backend.context is not None:
        chunk_frames = backend.context.chunk_frames
        chunk = torch.zeros(1, backend.context.window_feature_frames, NUM_MEL_BINS)
        macs = count_macs(lambda: backend.step(chunk, backend.initial_state(1)))
        chunk_ms = chunk_frames * FRAME_SHIFT_MS
        return Measured(1000 * macs / chunk_ms, f"one chunk of {chunk_ms} ms with its left context")
    if not isinstance(backend, TorchBackend) and not isinstance(recognizer, TeacherRecognizer):
        return Measured(None, "not counted: it does not run in torch")
    if waveform is None:
        return Measured(None, f"not counted: {NO_UTTERANCE}")
    if isinstance(recognizer, TeacherRecognizer):
        teacher, lens = recognizer.teacher, torch.tensor([len(waveform)])
        macs = count_macs(lambda: teacher.log_probs(waveform.unsqueeze(0), lens))
    else:
        features = recognizer.features(waveform).unsqueeze(0)
        macs = count_macs(lambda: backend.log_probs(features, torch.tensor([features.shape[1]])))
    seconds = len(waveform) / SAMPLE_RATE
    return Measured(macs / seconds, f"an utterance of {seconds:.3g} s")


def int8_size(system: System) -> Measured:
    """Bytes of the weights as 8-bit integers, of a file or estimated; the note states which."""
    for folder in filter(None, (system.weights, _bundle_of(system))):
        for name in INT8_FILES:
            if (folder / name).is_file():
                return Measured((folder / name).stat().st_size, f"file {name}")
    backend: Any = getattr(system.recognizer, "backend", None)
    if isinstance(backend, TorchBackend):
        of = "estimate: matrices as int8 with a float32 scale for each output, the rest float32"
        return Measured(quantised_bytes(backend.model.parameters()), of)
    if system.parameters is not None:
        return Measured(system.parameters, "estimate: a byte for each parameter")
    return Measured(None, "not known: neither weights nor their number")


def _bundle_of(system: System) -> Path | None:
    """The bundle of a system, if it is complete and made from these weights."""
    if system.bundle is None or system.weights is None or not (system.bundle / BUNDLE).is_file():
        return None
    try:
        made_from = read_bundle(system.bundle).info.trace.model_sha256
    except BundleError:  # the size is estimated instead
        return None
    weights = system.weights / WEIGHTS
    return system.bundle if weights.is_file() and sha256_of_file(weights) == made_from else None


def quantised_bytes(weights: Iterable[Tensor]) -> int:
    """Bytes of tensors with two or more dimensions as int8 and a float32 scale a row, of the others as float32."""
    return sum(
        weight.numel() + FLOAT_BYTES * weight.shape[0] if weight.ndim > 1 else FLOAT_BYTES * weight.numel()
        for weight in weights
    )


POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6


def counters(root: Path = POWERCAP) -> dict[Path, int]:
    """The packages' counters that this process may read, each with the microjoules at which it wraps to 0.

    Their parts (cores, memory), which lie below, are not counted again.
    """
    found = {}
    for path in sorted(root.glob("*-rapl:*")):
        try:
            if path.name.count(":") == 1 and _microjoules(path) >= 0:
                found[path] = int((path / "max_energy_range_uj").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return found


def measure_energy(job: Callable[[], object], root: Path = POWERCAP) -> Measured:
    """Run `job` and measure the energy that the packages use, joules; without counters it is not run.

    One wrap of a counter is corrected; a job must be shorter than its period (minutes to hours).
    """
    readable = counters(root)
    if not readable:
        return Measured(None, f"not readable here: no energy counter under {root} that this user may read")
    before = {path: _microjoules(path) for path in readable}
    job()
    used = sum((_microjoules(path) - before[path]) % (wraps_at + 1) for path, wraps_at in readable.items())
    return Measured(used * MICRO)


def _microjoules(counter: Path) -> int:
    return int((counter / "energy_uj").read_text(encoding="ascii"))


STATUS = Path("/proc/self/status")
TIMEOUT_SECONDS = 600
LOUDNESS = 0.01


def measure_memory(system: System, num_samples: Sequence[int]) -> dict[str, Any]:
    """Open a system in its own process and transcribe utterances of these lengths, as a stream where it can.

    Returns:
        `rss_bytes`, the largest resident size, `rss_before_bytes`, with everything imported and no model open, and
        `rss_reason`, why there is none.
    """
    opening = how_to_open(system)
    if opening is None:
        return no_memory("not measured: it cannot be opened again from a folder or source")
    if not STATUS.is_file():
        return no_memory("not readable here: no /proc/self/status")
    task = json.dumps({"open": opening, "num_samples": list(num_samples)})
    command = [sys.executable, "-P", "-m", __name__]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, input=task, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True, env=environment
        )
        found = json.loads(done.stdout)
        measured = {key: int(found[key]) for key in ("rss_bytes", "rss_before_bytes")}
        return {**measured, "rss_reason": None}
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        lines = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return no_memory(f"not measured: its own process failed ({lines[-1] if lines else 'no message'})")


def no_memory(reason: str) -> dict[str, Any]:
    """What stands for memory that was not measured."""
    return {"rss_bytes": None, "rss_before_bytes": None, "rss_reason": reason}


def how_to_open(system: System) -> dict[str, Any] | None:
    """Plain data that opens the system again in another process; None where there is none."""
    decoding = system.details.get("decoding", {})
    if system.weights is not None and system.weights.is_dir():
        return {"folder": str(system.weights.resolve()), "decoding": decoding}
    source = system.details.get("source")
    if isinstance(source, str) and not source.startswith("recipe:"):
        return {"source": source, "precision": system.details.get("precision", "fp32"), "decoding": decoding}
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
    opening = task["open"]
    decoding = DecodingSettings.model_validate(opening.pop("decoding"))
    recognizer: Transcriber
    if "folder" in opening:
        recognizer = open_recognizer(opening["folder"], decoding=decoding)
    else:
        teacher = open_teacher_source(TeacherSource(**opening))
        recognizer = TeacherRecognizer(teacher, decoder=open_decoder(teacher.vocabulary, decoding))
    generator = torch.Generator().manual_seed(0)
    job = usual_job(recognizer)
    for samples in task["num_samples"]:
        job(LOUDNESS * torch.randn(samples, generator=generator))
    sys.stdout.write(json.dumps({"rss_bytes": resident_bytes("VmHWM"), "rss_before_bytes": before}))


if __name__ == "__main__":
    main()
