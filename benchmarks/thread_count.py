"""A training step of the named sizes with one thread and with more, in processes of their own. Prints a table.

    python benchmarks/thread_count.py [--threads 1 2] [--sizes tiny small] [--steps 20]

Ratios to one thread; quote them with the machine and what else ran on it. Waiting threads sleep, as under `asr-kd`.
"""

import argparse
import os
import subprocess
import sys
import time
from statistics import median

BATCH, FEATURE_FRAMES, TOKENS = 6, 240, 30


def milliseconds(size: str, threads: int, steps: int) -> float:
    """Median time of a step, measured in a fresh process: the thread count is read when torch starts."""
    command = [sys.executable, "-P", __file__, "--one", size, "--threads", str(threads), "--steps", str(steps)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure(size: str, threads: int, steps: int) -> float:
    """Median milliseconds of a bf16 training step: forward, CTC, backward, clipping, AdamW."""
    import torch

    from asr_kd.losses import References
    from asr_kd.losses.ctc import ctc_loss
    from asr_kd.models.conformer import Conformer
    from asr_kd.models.settings import ConformerSettings

    torch.set_num_threads(threads)
    model = Conformer(ConformerSettings.model_validate({"size": size}), vocab_size=29).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    features, lens = torch.randn(BATCH, FEATURE_FRAMES, 80), torch.full((BATCH,), FEATURE_FRAMES)
    references = References(torch.randint(1, 29, (BATCH, TOKENS)), torch.full((BATCH,), TOKENS))
    times = []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(features, lens)
        optimizer.zero_grad()
        (ctc_loss(output.log_probs, output.lens, references, 0) / output.lens.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        times.append(1000 * (time.perf_counter() - begin))
    return median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.one, arguments.threads[0], arguments.steps))
        return
    print(f"{'size':8} {'threads':>7} {'ms/step':>8} {'ratio':>6}")
    for size in arguments.sizes:
        alone = milliseconds(size, 1, arguments.steps)
        for threads in arguments.threads:
            taken = alone if threads == 1 else milliseconds(size, threads, arguments.steps)
            print(f"{size:8} {threads:7d} {taken:8.1f} {taken / alone:6.2f}")


if __name__ == "__main__":
    main()
