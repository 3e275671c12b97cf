"""What a LibriSpeech recipe with a public teacher costs: arithmetic counted, rates measured, hours estimated.

    python benchmarks/recipe_cost.py                         # arithmetic, and the estimates for a GPU
    python benchmarks/recipe_cost.py --measure MANIFEST      # also what this machine does, on utterances of a manifest

Counted: floating-point operations a second of audio, by torch's counter on models without weights. Measured, one
thread, the fastest of several runs because others may share the machine: matrix products, reading and features of
real utterances, training steps of the students, a teacher's pass with random weights. Estimated: hours = operations /
(rate of matrix products × the share of it that is assumed to be reached). The work of starting kernels is not counted.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torchaudio
from torch.utils.flop_counter import FlopCounterMode

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.augment import speed_perturb
from asr_kd.features.fbank import fbank
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, Streaming

UTTERANCE_SECONDS = 12.3
"""Mean of LibriSpeech's training set: 960.9 h in 281,241 utterances."""
SPEEDS = (0.9, 1.0, 1.1)
SPEED_COST = sum(1 / speed for speed in SPEEDS)  # of a pass at each speed, in passes at 1.0
TEACHERS = ("HUBERT_ASR_LARGE", "WAV2VEC2_ASR_LARGE_LV60K_100H", "WAV2VEC2_ASR_BASE_960H")
STUDENTS = ("tiny", "5m", "10m", "30m")
RECIPES = (  # recipe, hours, epochs, teacher
    ("960h", 960.9, 50, "HUBERT_ASR_LARGE"),
    ("train-clean-100", 100.6, 100, "HUBERT_ASR_LARGE"),
    ("label-free", 860.3, 50, "WAV2VEC2_ASR_LARGE_LV60K_100H"),
    ("mini-public", 3.7, 60, "WAV2VEC2_ASR_BASE_960H"),
)


def teacher(name: str, device: str) -> torch.nn.Module:
    """A torchaudio bundle's model, without its weights."""
    bundle = getattr(torchaudio.pipelines, name)
    with torch.device(device):
        return torchaudio.models.wav2vec2_model(**bundle._params).eval()


def student(size: str, device: str) -> Conformer:
    """A streaming Conformer with 29 characters."""
    with torch.device(device):
        return Conformer(ConformerSettings.model_validate({"size": size, "streaming": Streaming()}), 29)


def operations(forward: Callable[[], object]) -> int:
    """Floating-point operations of one call, multiplications and additions both."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops()


def fastest(job: Callable[[], object], runs: int) -> float:
    """Seconds of the fastest run."""
    job()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def counted() -> dict[str, tuple[int, float]]:
    """Name → parameters, and operations for a second of audio in one forward pass."""
    found = {}
    for name in TEACHERS:
        model, samples = teacher(name, "meta"), int(UTTERANCE_SECONDS * 16_000)
        flops = operations(partial(model, torch.empty(1, samples, device="meta")))
        found[name] = (sum(p.numel() for p in model.parameters()), flops / UTTERANCE_SECONDS)
    for size in STUDENTS:
        model, frames = student(size, "meta"), int(UTTERANCE_SECONDS * 100)
        features, lens = torch.empty(1, frames, 80, device="meta"), torch.tensor([frames], device="meta")
        flops = operations(partial(model, features, lens))
        found[size] = (model.num_parameters, flops / UTTERANCE_SECONDS)
    return found


def measured(manifest: Path) -> None:
    """What one thread of this machine does."""
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        rate = 2 * 2048**3 / fastest(partial(torch.matmul, a, b), 5)
        print(f"matrix product 2048³ {dtype}: {rate / 1e9:.0f} GFLOP/s")
    utterances = read_manifest(manifest)[:40]
    seconds = sum(u.duration for u in utterances)
    waveforms = [read_utterance(u) for u in utterances]
    parts = {
        "read": lambda: [read_utterance(u) for u in utterances],
        "speed 0.9": lambda: [speed_perturb(w, 0.9) for w in waveforms],
        "features": lambda: [fbank(w) for w in waveforms],
    }
    costs = {name: fastest(job, 5) / seconds for name, job in parts.items()}
    for name, cost in costs.items():
        print(f"{name}: {1 / cost:.0f} × real time ({seconds:.0f} s of audio)")
    together = costs["read"] + costs["features"] + 2 / 3 * costs["speed 0.9"]
    print(f"read, two thirds at another speed, features: {1 / together:.0f} × real time")
    for size in STUDENTS:
        print(f"{size}: training at {training_rate(size):.0f} × real time, batches of 60 s, bf16")
    for name in ("HUBERT_ASR_LARGE", "WAV2VEC2_ASR_BASE_960H"):
        for dtype in (torch.float32, torch.bfloat16):
            model, audio = teacher(name, "cpu").to(dtype), torch.randn(1, int(UTTERANCE_SECONDS * 16_000), dtype=dtype)
            with torch.inference_mode():
                cost = fastest(partial(model, audio), 2) / UTTERANCE_SECONDS
            print(f"{name}: {1 / cost:.2f} × real time, one thread, {dtype}, random weights")


def training_rate(size: str) -> float:
    """Seconds of audio a second of computing: forward, CTC, backward, step, on batches of 60 s; nothing is read."""
    model = student(size, "cpu").train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    features, lens = torch.randn(5, 1200, 80), torch.full((5,), 1200)
    tokens, token_lens = torch.randint(1, 29, (5, 180)), torch.full((5,), 180)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(features, lens)
        log_probs = output.log_probs.float().transpose(0, 1)
        torch.nn.functional.ctc_loss(log_probs, tokens, output.lens, token_lens).backward()
        optimizer.step()
        optimizer.zero_grad()

    return 60 / fastest(step, 4)


def estimates(arguments: argparse.Namespace, cost: dict[str, tuple[int, float]]) -> None:
    """Hours and bytes of every recipe on a GPU."""
    rate = 3600e12 * arguments.tflops
    for recipe, hours, epochs, teacher_name in RECIPES:
        reading = hours * epochs / arguments.cores / arguments.input_rate
        print(
            f"\n{recipe}: {hours} h of speech; {epochs} epochs take {reading:.2g} h to read on {arguments.cores} cores"
        )
        seconds = hours * 3600 * SPEED_COST
        jobs = [(f"{teacher_name}, three speeds", seconds * cost[teacher_name][1], arguments.teacher_share)]
        for size in STUDENTS:  # a backward pass costs two forward ones
            jobs.append((f"{size} student", 3 * hours * 3600 * epochs * cost[size][1], arguments.student_share))
        for job, flops, share in jobs:
            full = flops / rate
            print(f"  {job}: {flops:.2g} FLOP, {full:.2g} h at the full rate, {full / share:.2g} h assumed")
        print(f"  targets: {25e-6 * seconds:.3g} M frames, {25e-6 * seconds * arguments.bytes_per_frame:.3g} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="MANIFEST", help="measure this machine on its utterances")
    parser.add_argument(
        "--tflops", type=float, default=798, help="bf16 matrix products of the GPU (measured on an H100)"
    )
    parser.add_argument("--teacher-share", type=float, default=0.3, help="of that rate, assumed")
    parser.add_argument(
        "--student-share", type=float, default=0.05, help="of that rate, assumed: their matrices are small"
    )
    parser.add_argument("--cores", type=int, default=16, help="that read and compute features")
    parser.add_argument("--input-rate", type=float, default=1000, help="× real time a core, see --measure")
    parser.add_argument("--bytes-per-frame", type=float, default=0.8, help="of the store")
    arguments = parser.parse_args()
    cost = counted()
    for name, (parameters, flops) in cost.items():
        print(f"{name}: {parameters / 1e6:.2f} M parameters, {flops / 1e9:.2f} GFLOP a second of audio, forward")
    estimates(arguments, cost)
    if arguments.measure:
        measured(arguments.measure)


if __name__ == "__main__":
    main()
