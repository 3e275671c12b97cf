"""What each step made of the exported graph's speed, and the real client's: size, real-time factor, memory.

    python benchmarks/export_speed.py [--sizes tiny 5m] [--chunks 8 16] [--model MODEL_FOLDER] [--steps]

One thread. Times are of this process' own processor time, so that other work on the machine counts little; the ratio
to the first row of the same run is what to quote. `--steps` times one step in onnxruntime instead: three projections
that the graph puts together against one, float32 against 8-bit weights. Untrained weights unless --model says
otherwise: speed does not depend on them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS = 60
SAMPLE_RATE = 16_000
VOCABULARY = 500

CLIENT = """
import json, sys, time
import numpy as np, sherpa_onnx
task = json.loads(sys.argv[1])
recognizer = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
    tokens=task["tokens"], model=task["model"], num_threads=1)
samples = np.load(task["samples"], allow_pickle=False)
def hear(samples):
    stream = recognizer.create_stream()
    for start in range(0, len(samples), task["packet"]):
        stream.accept_waveform(16_000, samples[start:start + task["packet"]])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
hear(samples[:48_000])
begin = time.process_time()
hear(samples)
print(json.dumps({"seconds": time.process_time() - begin,
                  "rss": 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])}))
"""
OURS = """
import json, sys, time
import numpy as np, torch
torch.set_num_threads(1)
from asr_kd.runtime.recognizer import open_recognizer
task = json.loads(sys.argv[1])
recognizer = open_recognizer(task["bundle"])
samples = np.load(task["samples"], allow_pickle=False)
def hear(samples):
    stream = recognizer.stream()
    for start in range(0, len(samples), task["packet"]):
        stream.feed(samples[start:start + task["packet"]])
    stream.final()
hear(samples[:48_000])
begin = time.process_time()
hear(samples)
print(json.dumps({"seconds": time.process_time() - begin,
                  "rss": 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])}))
"""


def untrained(size: str, chunk_frames: int, folder: Path) -> Path:
    """A model folder with random weights."""
    from asr_kd.models.conformer import Conformer
    from asr_kd.models.settings import ConformerSettings, Streaming
    from asr_kd.models.weights import save_model
    from asr_kd.text.vocabulary import Vocabulary

    torch.manual_seed(0)
    streaming = Streaming(chunk_frames=chunk_frames)
    model = Conformer(ConformerSettings(size=size, streaming=streaming), VOCABULARY).eval()  # type: ignore[arg-type]
    symbols = ("<blk>", *(f"▁s{index}" for index in range(1, VOCABULARY)))
    save_model(folder, model, Vocabulary(symbols), {})
    return folder


def noise() -> np.ndarray:
    """As loud as speech, a minute of it."""
    return (0.05 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE)).astype(np.float32)


def apart(script: str, task: dict[str, Any], rounds: int) -> tuple[float, float]:
    """Least real-time factor and resident memory in MB of a script in processes of its own."""
    found = []
    for _ in range(rounds):
        done = subprocess.run([sys.executable, "-c", script, json.dumps(task)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    return min(one["seconds"] for one in found) / SECONDS, max(one["rss"] for one in found) / 1e6


def compare_clients(arguments: argparse.Namespace, folder: Path) -> None:
    """A table: the client and our loop, float32 and int8, for each size and chunk."""
    from asr_kd.export.bundle import ExportSettings, export_bundle
    from asr_kd.models.settings import Context

    np.save(folder / "noise.npy", noise())
    waveform = torch.from_numpy(noise()[:48_000])
    print(
        f"{'model':10} {'chunk':>7} {'weights':>8} {'MB':>6} {'client RTF':>11} {'ours RTF':>9} {'ratio':>6} "
        f"{'client MB':>10} {'ours MB':>8}"
    )
    for size in ["model"] if arguments.model else arguments.sizes:
        for frames in arguments.chunks:
            model = arguments.model or untrained(size, frames, folder / f"{size}-{frames}")
            bundle = folder / f"bundle-{size}-{frames}"
            settings = ExportSettings(int8=True, client=False, context=Context(frames, 64))
            info = export_bundle(model, bundle, [waveform], settings=settings)
            for name, entry in info.files.graphs.items():
                task = {
                    "samples": str(folder / "noise.npy"),
                    "packet": 1_600,
                    "bundle": str(bundle / name),
                    "model": str(bundle / name),
                    "tokens": str(bundle / "tokens.txt"),
                }
                client, client_rss = apart(CLIENT, task, arguments.rounds)
                ours, our_rss = apart(OURS, task, arguments.rounds)
                weights = "int8" if "int8" in name else "fp32"
                print(
                    f"{size:10} {40 * frames:4d} ms {weights:>8} {entry.size_bytes / 1e6:6.2f} {client:11.4f} "
                    f"{ours:9.4f} {ours / client:6.2f} {client_rss:10.0f} {our_rss:8.0f}",
                    flush=True,
                )


def compare_steps(arguments: argparse.Namespace, folder: Path) -> None:
    """A table: milliseconds of one step of one stream in onnxruntime, each change on top of those above it."""
    import onnxruntime

    from asr_kd.export.onnx import write_onnx
    from asr_kd.export.quantize import write_int8
    from asr_kd.export.sherpa import SherpaWire
    from asr_kd.models.weights import load_model
    from asr_kd.runtime.wire import WireFormat

    model = load_model(untrained(arguments.sizes[0], arguments.chunks[0], folder / "model")).model
    wire = WireFormat.of(model.settings, VOCABULARY)
    unfused, fused = SherpaWire(model), SherpaWire(model)
    unfused.model = model  # the projections' matrices are put together in the graph, and are not quantised
    modules = {"projections put together in the graph": unfused, "one projection": fused}
    sessions = {}
    for number, (name, module) in enumerate(modules.items()):
        path = folder / f"{number}.onnx"
        write_onnx(module, wire, path, {})
        write_int8(path, folder / f"{number}.int8.onnx")
        sessions[name] = path
        sessions[f"{name}, 8-bit weights"] = folder / f"{number}.int8.onnx"
    print(f"{'step':52} {'MB':>6} {'ms':>7} {'ratio':>6}")
    times = _interleaved(onnxruntime, list(sessions.values()))
    for (name, path), taken in zip(sessions.items(), times, strict=True):
        print(f"{name:52} {path.stat().st_size / 1e6:6.2f} {taken:7.3f} {taken / times[0]:6.2f}")


def _interleaved(onnxruntime: Any, paths: list[Path], rounds: int = 200) -> list[float]:
    """Median milliseconds of a step of each graph, taken turn by turn."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    jobs: list[tuple[Any, dict[str, np.ndarray], list[float]]] = []
    for path in paths:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {}
        for value in session.get_inputs():
            shape = [size if isinstance(size, int) else 1 for size in value.shape]
            feed[value.name] = np.zeros(shape, np.int64 if "int64" in value.type else np.float32)
        jobs.append((session, feed, []))
    for _ in range(rounds):
        for session, feed, times in jobs:
            begin = time.process_time()
            session.run(None, feed)
            times.append(1000 * (time.process_time() - begin))
    return [float(np.median(times)) for _, _, times in jobs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "5m"])
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16], help="frames of 40 ms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a trained model folder instead")
    parser.add_argument("--steps", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (compare_steps if arguments.steps else compare_clients)(arguments, Path(folder))


if __name__ == "__main__":
    main()
