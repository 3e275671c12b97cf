"""Our training step beside speechbrain's own Conformer–CTC of the same size, on the same batches. Prints a table.

    python benchmarks/training_step.py exp/an4/manifests [--models tiny small] [--seconds 16 60] [--rounds 5]

One thread; CTC alone, dropout 0.1, no SpecAugment, no inner heads, features in memory. Ours is `Stepper.take`,
speechbrain's is `Brain.fit_batch` with its recipes' attention (RelPosMHAXL) and with its rotary one (RoPEMHA). All
take turns on the same batches; medians of processor seconds, which other work on the machine disturbs less than the
clock. `ratio` is how often our step fits into the other's time. FLOPs are what `torch.utils.flop_counter` sees of one
step (matrix products and convolutions), `of rate` the share of the rate that a large matrix product reached in this
run, in the same precision.

`--profile` prints where our step's time goes instead, by operator.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from speechbrain_conformer import SpeechbrainConformer, SpeechbrainStep
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from training_batches import MODELS, frames_of, load, make_dataset, make_stepper, plan_batches, read_corpus

from asr_kd.features.augment import NO_AUGMENTATION
from asr_kd.models.settings import ConformerSettings
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch import Batch
from asr_kd.training.settings import TrainSettings

Step = Callable[[Batch], object]
SIDE = 1024
"""Of the square matrices whose product is the machine's rate."""
PLAIN = TrainSettings(augmentation=NO_AUGMENTATION)


def our_step(model: ConformerSettings, vocabulary: Vocabulary, precision: str) -> tuple[Step, int]:
    """Ours, and how many numbers it trains."""
    stepper = make_stepper(model, vocabulary, precision, settings=PLAIN)
    return lambda batch: stepper.take(batch, frames_of(batch), 0, 1e-4), stepper.model.num_parameters


def their_step(model: ConformerSettings, vocabulary: Vocabulary, precision: str, attention: str) -> tuple[Step, int]:
    """speechbrain's, and how many numbers it trains."""
    torch.manual_seed(0)
    theirs = SpeechbrainConformer(model, len(vocabulary), attention)
    step = SpeechbrainStep(theirs, vocabulary.blank_id, precision)
    return step.fit_batch, sum(parameter.numel() for parameter in theirs.parameters())


def flops_of(step: Step, batch: Batch) -> int:
    """Of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step(batch)
    return int(counter.get_total_flops())


def matmul_seconds(precision: str) -> float:
    """One large product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    start = time.process_time()
    left @ right
    return time.process_time() - start


def take_turns(steps: dict[str, Step], batches: Sequence[Batch], precision: str, rounds: int) -> dict[str, float]:
    """Median seconds of a pass over the batches, by name, and of a large product, as `matmul`."""
    seconds: dict[str, list[float]] = {name: [] for name in [*steps, "matmul"]}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            for batch in batches:
                step(batch)
            if round_:  # the first one warms up
                seconds[name].append(time.process_time() - start)
                seconds["matmul"].append(matmul_seconds(precision))
    return {name: median(taken) for name, taken in seconds.items()}


def compare(size: str, vocabulary: Vocabulary, batches: Sequence[Batch], precision: str, rounds: int) -> None:
    """Rows of one size and precision."""
    model = MODELS[size]
    made = {"ours": our_step(model, vocabulary, precision)}
    for attention in ("RelPosMHAXL", "RoPEMHA"):
        made[f"speechbrain {attention}"] = their_step(model, vocabulary, precision, attention)
    steps = {name: step for name, (step, _) in made.items()}
    flops = {name: sum(flops_of(step, batch) for batch in batches) for name, step in steps.items()}
    taken = take_turns(steps, batches, precision, rounds)
    rate = 2 * SIDE**3 / taken.pop("matmul")
    for name, seconds in taken.items():
        reached = flops[name] / seconds
        print(
            f"{size:6}{precision:>5}  {name:24}{made[name][1] / 1e6:>7.2f}M{len(batches) / seconds:>9.2f}"
            f"{seconds / taken['ours']:>8.2f}{flops[name] / len(batches) / 1e9:>9.2f}"
            f"{reached / 1e9:>9.1f}{rate / 1e9:>9.1f}{reached / rate:>9.1%}"
        )


def show_profile(size: str, vocabulary: Vocabulary, batches: Sequence[Batch], precision: str) -> None:
    """Operators of our step by their own time."""
    step, _ = our_step(MODELS[size], vocabulary, precision)
    for batch in batches:
        step(batch)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        for batch in batches:
            step(batch)
    rows = record.key_averages()
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"\n{size}, {precision}: {total / 1e3 / len(batches):.1f} ms a step under the profiler")
    print(f"{'operator':50}{'ms':>9}{'share':>8}{'calls':>8}")
    for row in sorted(rows, key=lambda row: -row.self_cpu_time_total)[:30]:
        milliseconds = row.self_cpu_time_total / 1e3 / len(batches)
        share = row.self_cpu_time_total / total
        print(f"{row.key[:48]:50}{milliseconds:>9.2f}{share:>8.1%}{row.count / len(batches):>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", type=Path, help="a run's folder of manifests: train.jsonl and tokens.txt")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seconds", type=float, nargs="+", default=[16.0, 60.0], help="of padded audio in a batch")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--batches", type=int, default=4, help="in a pass, from short to long utterances")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    utterances, vocabulary = read_corpus(arguments.manifests)
    dataset = make_dataset(utterances, vocabulary)
    for seconds in arguments.seconds:
        batches = [load(dataset, draws) for draws in plan_batches(utterances, seconds, arguments.batches)]
        utterances_each = median(len(batch.ids) for batch in batches)
        print(f"\nbatches of {seconds:g} s ({utterances_each:g} utterances), torch {torch.__version__}, one thread")
        if not arguments.profile:
            print(f"{'model':6}{'':5}  {'':24}{'size':>8}{'steps/s':>9}{'ratio':>8}", end="")
            print(f"{'GFLOP':>9}{'GFLOP/s':>9}{'rate':>9}{'of rate':>9}")
        for size in arguments.models:
            for precision in arguments.precisions:
                if arguments.profile:
                    show_profile(size, vocabulary, batches, precision)
                else:
                    compare(size, vocabulary, batches, precision, arguments.rounds)


if __name__ == "__main__":
    main()
