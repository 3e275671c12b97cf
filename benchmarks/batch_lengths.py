"""Training steps on batches as long as their longest utterance, and on batches of `padded_length`. Prints a table.

    python benchmarks/batch_lengths.py [--sizes tiny small] [--steps 60] [--rounds 2]

Utterances of 2 to 16 s, batches of 30 s, one thread; each measurement in a process of its own, in turns, because
compiled kernels are kept for later steps. Medians of processor seconds a step, after steps that are not counted: with
`padded_length` most lengths have occurred by then. `ratio` is to batches as long as their longest utterance.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from statistics import median

FRAMES = (200, 1600)
"""Feature frames of the longest utterance in a batch."""
BATCH_FRAMES = 3000
TOKENS = 40


def milliseconds(size: str, precision: str, padded: bool, steps: int) -> float:
    """Median processor time of a step, measured in a fresh process."""
    command = [sys.executable, "-P", __file__, "--one", size, precision, str(int(padded)), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)


def measure(size: str, precision: str, padded: bool, steps: int) -> float:
    """Median processor milliseconds of a step: forward, CTC, backward, AdamW."""
    import torch

    from asr_kd.losses import References
    from asr_kd.losses.ctc import ctc_loss
    from asr_kd.models.conformer import Conformer
    from asr_kd.models.settings import ConformerSettings
    from asr_kd.training.batch import padded_length

    torch.set_num_threads(1)
    streaming = {"chunk_frames": 8, "left_context_frames": 64}
    model = Conformer(ConformerSettings.model_validate({"size": size, "streaming": streaming}), vocab_size=29).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    drawn = random.Random(0)
    times = []
    for _ in range(2 * steps):
        longest = drawn.randint(*FRAMES)
        batch = BATCH_FRAMES // longest
        features = torch.randn(batch, padded_length(longest) if padded else longest, 80)
        lens = torch.tensor([longest - drawn.randint(0, 20) for _ in range(batch)])
        references = References(torch.randint(1, 29, (batch, TOKENS)), torch.full((batch,), TOKENS))
        begin = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = model(features, lens)
        optimizer.zero_grad()
        (ctc_loss(output.log_probs, output.lens, references, 0) / output.lens.sum()).backward()
        optimizer.step()
        times.append(1000 * (time.process_time() - begin))
    return median(times[steps:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"])
    parser.add_argument("--steps", type=int, default=60, help="counted, and as many before them")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        size, precision, padded = arguments.one
        print(measure(size, precision, padded == "1", arguments.steps))
        return
    print(f"{'size':8} {'precision':9} {'longest, ms':>11} {'padded, ms':>10} {'ratio':>6}")
    for size in arguments.sizes:
        for precision in ("bf16", "fp32"):
            taken: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(arguments.rounds):
                for padded, times in taken.items():
                    times.append(milliseconds(size, precision, padded, arguments.steps))
            longest, rounded = median(taken[False]), median(taken[True])
            print(f"{size:8} {precision:9} {longest:11.1f} {rounded:10.1f} {rounded / longest:6.2f}", flush=True)


if __name__ == "__main__":
    main()
