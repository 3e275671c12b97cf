"""Speed of the exported graph by optimisation step, and our loop beside the real client: size, time, memory.

    python benchmarks/export_speed.py [--sizes tiny 5m] [--chunks 8 16] [--model MODEL_FOLDER] [--steps]

One thread. Client (its Python interface) and our loop run the same ten seconds in one process, turn by turn, in
packets of 100 ms, features included and as many chunks each: the ratio is the median over the turns, with its
quartiles. Times are of the process' own processor time, so other work on the machine counts less, though it empties
caches. `--steps` times one step in onnxruntime instead, turn by turn, each change on top of those above it. Untrained
weights unless --model says otherwise: speed does not depend on them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch

SECONDS = 10
SAMPLE_RATE = 16_000
VOCABULARY = 500

TURNS = """
import json, sys, time
import numpy as np
task = json.loads(sys.argv[1])
samples, tail = (np.load(task[name], allow_pickle=False) for name in ("samples", "tail"))
packets = [samples[start:start + task["packet"]] for start in range(0, len(samples), task["packet"])]
runs = {}
if "client" in task["who"]:
    import sherpa_onnx
    client = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(tokens=task["tokens"], model=task["model"], num_threads=1)
    def run():
        stream, chunks = client.create_stream(), 0
        for packet in [*packets, tail]:
            stream.accept_waveform(16_000, packet)
            while client.is_ready(stream):
                client.decode_stream(stream)
                chunks += 1
        return chunks
    runs["client"] = run
if "ours" in task["who"]:
    import torch
    torch.set_num_threads(1)
    from asr_kd.runtime.recognizer import open_recognizer
    ours = open_recognizer(task["model"])
    def run():
        stream = ours.stream()
        for packet in packets:
            stream.feed(packet)
        stream.final()
        return round(stream.decoded_seconds * 25 / ours.context.chunk_frames)
    runs["ours"] = run
chunks, seconds = {who: run() for who, run in runs.items()}, {who: [] for who in runs}
for turn in range(task["turns"]):
    for who in sorted(runs, reverse=bool(turn % 2)):
        begin = time.process_time()
        runs[who]()
        seconds[who].append(time.process_time() - begin)
print(json.dumps({"chunks": chunks, "seconds": seconds,
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
    settings = ConformerSettings.model_validate({"size": size, "streaming": streaming})
    model = Conformer(settings, VOCABULARY).eval()
    symbols = ("<blk>", *(f"▁s{index}" for index in range(1, VOCABULARY)))
    save_model(folder, model, Vocabulary(symbols), {})
    return folder


def noise() -> np.ndarray:
    """As loud as speech."""
    return (0.05 * np.random.default_rng(0).standard_normal(SECONDS * SAMPLE_RATE)).astype(np.float32)


def take_turns(task: dict[str, Any], who: list[str], turns: int) -> dict[str, Any]:
    """Return what the script above prints in a process of its own."""
    request = json.dumps({**task, "who": who, "turns": turns})
    done = subprocess.run([sys.executable, "-P", "-c", TURNS, request], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if len(set(found["chunks"].values())) > 1:
        raise SystemExit(f"not the same work: {found['chunks']} chunks")
    return found


def compare_clients(arguments: argparse.Namespace, folder: Path) -> None:
    """A table: the client and our loop, float32 and int8, for each size and chunk."""
    from asr_kd.export.export_bundle import ExportSettings, export_bundle
    from asr_kd.models.settings import Context

    np.save(folder / "noise.npy", noise())
    waveform = torch.from_numpy(noise()[:48_000])
    print(
        f"{'model':6} {'chunk':>7} {'weights':>8} {'MB':>6} {'client RTF':>11} {'ours RTF':>9} {'ratio':>6} "
        f"{'quartiles':>10} {'client MB':>10} {'ours MB':>8}"
    )
    for size in ["model"] if arguments.model else arguments.sizes:
        for frames in arguments.chunks:
            model = arguments.model or untrained(size, frames, folder / f"{size}-{frames}")
            bundle = folder / f"bundle-{size}-{frames}"
            settings = ExportSettings(int8=True, client=False, context=Context(frames, 64))
            info = export_bundle(model, bundle, [waveform], settings=settings)
            for name, entry in info.files.graphs.items():
                line = _beside(folder, bundle / name, frames, arguments.turns)
                weights = "int8" if "int8" in name else "fp32"
                print(f"{size:6} {40 * frames:4d} ms {weights:>8} {entry.size_bytes / 1e6:6.2f} {line}", flush=True)


def _beside(folder: Path, graph: Path, chunk_frames: int, turns: int) -> str:
    """One graph's times, their ratio and the memory of each alone."""
    from asr_kd.models.settings import Context
    from asr_kd.runtime.backend import padded_num_samples

    # What our loop pads with, and a packet more: the client takes a step only when more than its window is there.
    silence = padded_num_samples(SECONDS * SAMPLE_RATE, Context(chunk_frames, 64)) - SECONDS * SAMPLE_RATE + 1_600
    np.save(folder / "tail.npy", np.zeros(silence, dtype=np.float32))
    paths = {"samples": folder / "noise.npy", "tail": folder / "tail.npy", "model": graph}
    paths["tokens"] = graph.parent / "tokens.txt"
    task = {**{name: str(path) for name, path in paths.items()}, "packet": 1_600}
    seconds = take_turns(task, ["client", "ours"], turns)["seconds"]
    client, ours = np.array(seconds["client"]), np.array(seconds["ours"])
    low, middle, high = np.quantile(ours / client, [0.25, 0.5, 0.75])
    memory = [take_turns(task, [who], 1)["rss"] / 1e6 for who in ("client", "ours")]
    return (
        f"{np.median(client) / SECONDS:11.4f} {np.median(ours) / SECONDS:9.4f} {middle:6.2f} {low:5.2f}-{high:4.2f} "
        f"{memory[0]:10.0f} {memory[1]:8.0f}"
    )


def compare_steps(arguments: argparse.Namespace, folder: Path) -> None:
    """A table: milliseconds of one step of one stream in onnxruntime, each change on top of those above it."""
    import onnxruntime

    from asr_kd.export.graphs import SherpaWire, write_int8, write_onnx
    from asr_kd.models.weights import load_model
    from asr_kd.runtime.wire import WireFormat

    model = load_model(untrained(arguments.sizes[0], arguments.chunks[0], folder / "model")).model
    wire = WireFormat.of(model.settings, VOCABULARY)
    apart, projection, fused = SherpaWire(model), SherpaWire(model), SherpaWire(model)
    apart.model, projection.model = model, deepcopy(model)
    for layer in projection.model.layers:
        layer.attention.fuse()  # type: ignore[operator, union-attr]
    for name, module in {"apart": apart, "projection": projection, "fused": fused}.items():
        write_onnx(module, wire, folder / f"{name}.onnx", {})
    write_int8(folder / "fused.onnx", folder / "int8.onnx")
    levels = onnxruntime.GraphOptimizationLevel
    rows = {
        "as exported, nothing optimised": ("apart", levels.ORT_DISABLE_ALL, "all"),
        "constants folded, what is superfluous taken out": ("apart", levels.ORT_ENABLE_BASIC, "all"),
        "operators fused": ("apart", levels.ORT_ENABLE_EXTENDED, "all"),
        "layouts of convolutions": ("apart", levels.ORT_ENABLE_ALL, "all"),
        "one projection in the place of three": ("projection", levels.ORT_ENABLE_ALL, "all"),
        "halves in the weights of feed-forward layers": ("fused", levels.ORT_ENABLE_ALL, "all"),
        "8-bit weights": ("int8", levels.ORT_ENABLE_ALL, "all"),
        "what passes through not asked for (our loop)": ("int8", levels.ORT_ENABLE_ALL, "new"),
        "arrays bound once (our loop)": ("int8", levels.ORT_ENABLE_ALL, "bound"),
    }
    jobs = [_job(onnxruntime, folder / f"{graph}.onnx", level, outputs) for graph, level, outputs in rows.values()]
    times = _interleaved(jobs, arguments.turns)
    print(f"{'step':48} {'MB':>6} {'ms':>7} {'of the row above':>16} {'of the first':>12}")
    for number, (name, (graph, _, _)) in enumerate(rows.items()):
        size = (folder / f"{graph}.onnx").stat().st_size / 1e6
        above, first = (np.median(times[number] / times[other]) for other in (max(number - 1, 0), 0))
        print(f"{name:48} {size:6.2f} {1000 * np.median(times[number]):7.3f} {above:16.2f} {first:12.2f}")


def _job(onnxruntime: Any, path: Path, level: Any, outputs: str) -> Callable[[], None]:
    """One step of a graph: with all outputs, with those alone that change, or these into bound arrays."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed, fetched = _arrays(session.get_inputs()), _arrays(session.get_outputs())
    if outputs != "all":
        fetched = {name: array for name, array in fetched.items() if "nonlin_attn" not in name and "embed" not in name}
    if outputs != "bound":
        return lambda: session.run(list(fetched), feed)
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for name, array in fetched.items():
        binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    kept = (feed, fetched)
    return lambda: session.run_with_iobinding(binding) or (kept and None)


def _arrays(values: list[Any]) -> dict[str, np.ndarray]:
    """Zeros for one stream, by name."""
    shapes = [(value, [size if isinstance(size, int) else 1 for size in value.shape]) for value in values]
    return {one.name: np.zeros(shape, np.int64 if "int64" in one.type else np.float32) for one, shape in shapes}


def _interleaved(jobs: list[Callable[[], None]], turns: int) -> list[np.ndarray]:
    """Seconds of each job's turns."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(turns):
        for job, taken in zip(jobs, times, strict=True):
            job()  # its weights come into the caches
            begin = time.process_time()
            job()
            job()
            taken.append((time.process_time() - begin) / 2)
    return [np.array(taken) for taken in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "5m"])
    parser.add_argument("--chunks", type=int, nargs="+", default=[8, 16], help="frames of 40 ms")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--model", type=Path, help="a trained model folder instead")
    parser.add_argument("--steps", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        (compare_steps if arguments.steps else compare_clients)(arguments, Path(folder))


if __name__ == "__main__":
    main()
