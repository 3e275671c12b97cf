"""What soft targets cost on disk and lose, by ε, k and levels, on posteriors that a teacher gives. Prints a table.

    python benchmarks/soft_target_table.py TEACHER MANIFEST… [--epsilons 0.05 0.02 …] [--entries 4 8 12] [--levels 24]

TEACHER is a model folder, or a source as in a recipe (hf:…, torchaudio:…). Give audio that the teacher has not seen: on
its training data it is nearly certain of everything, and everything is small. Targets are written into shards and read
back, so that what is measured is what training will see; all bytes of the shards count. Losses are in nats a frame:
`coding` over the stored entries and the tail (rounding, collapsed blanks), `tail` inside the tail, against a flat one.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.posteriors import keep_nucleus
from asr_kd.targets.fidelity import compare
from asr_kd.targets.packing import Codec
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import Shard, ShardRow, shard_bytes
from asr_kd.targets.sharded_extraction import plan_batches
from asr_kd.targets.sharding import plan_shards
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.teachers import LocalTeacher, Teacher, TeacherSource, open_teacher_source


def open_any(source: str) -> Teacher:
    """A model folder, or what a recipe calls a source."""
    return LocalTeacher(Path(source)) if Path(source).is_dir() else open_teacher_source(TeacherSource(source=source))


def compute_posteriors(teacher: Teacher, utterances: Sequence[Utterance]) -> dict[str, Tensor]:
    """Log-probabilities [T, V] by id."""
    log_probs = {}
    for batch in plan_batches(utterances, 60.0):
        dense, _ = run_teacher(teacher, [read_utterance(utterance) for utterance in batch])
        for index, utterance in enumerate(batch):
            log_probs[utterance.id] = dense.log_probs[index, : int(dense.lens[index])].float().cpu()
    return log_probs


def measure(
    log_probs: Mapping[str, Tensor], utterances: Sequence[Utterance], blank_id: int, settings: TargetSettings
) -> dict[str, float]:
    """One row of the table."""
    vocab_size = next(iter(log_probs.values())).shape[-1]
    codec = Codec(vocab_size, blank_id, settings.max_entries, settings.certain_blank, settings.levels)
    num_bytes, entries, seconds, sums = 0, 0, 0.0, torch.zeros(6, dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        for planned in plan_shards(utterances, settings):
            ids = [utterance.id for utterance in planned.utterances]
            kept = {i: keep_nucleus(log_probs[i].exp(), settings.epsilon, settings.max_entries) for i in ids}
            rows = {i: [ShardRow(codec.pack(kept[i].tokens.numpy(), kept[i].probs.numpy()))] for i in ids}
            path = Path(folder) / f"{planned.name}.safetensors"
            path.write_bytes(shard_bytes(codec, rows))
            num_bytes += path.stat().st_size
            shard = Shard(path, codec, 1)
            start = time.perf_counter()
            stored = {i: shard.read(i, 0) for i in ids}
            seconds += time.perf_counter() - start
            entries += sum(int((item.probs > 0).sum()) for item in stored.values())
            sums += sum(compare(log_probs[i], stored[i], blank_id) for i in ids)
    names = ("frames", "coding", "tail", "agreement", "entropy", "blanks")
    means = {name: float(value / sums[0]) for name, value in zip(names, sums, strict=True)}
    frames = float(sums[0])
    return means | {
        "frames": frames,
        "entries": entries / frames,
        "bytes": num_bytes / frames,
        "read_us": 1e6 * seconds / frames,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[0.05, 0.02, 0.01, 0.005, 0.002])
    parser.add_argument("--entries", nargs="+", type=int, default=[4, 8, 12])
    parser.add_argument("--levels", nargs="+", type=int, default=[TargetSettings().levels])
    parser.add_argument("--certain-blank", type=float, default=TargetSettings().certain_blank)
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = open_any(args.teacher)
    utterances = [utterance for path in args.manifests for utterance in read_manifest(path)]
    log_probs = compute_posteriors(teacher, utterances)
    print(f"{'epsilon':>8}{'k':>4}{'levels':>8}{'entries':>9}{'bytes':>8}{'coding':>9}{'tail':>9}{'lost':>9}", end="")
    print(f"{'argmax':>9}{'read µs':>9}   a frame")
    for levels in args.levels:
        for epsilon in args.epsilons:
            for entries in args.entries:
                settings = TargetSettings(
                    epsilon=epsilon, max_entries=entries, certain_blank=args.certain_blank, levels=levels
                )
                row = measure(log_probs, utterances, teacher.vocabulary.blank_id, settings)
                print(
                    f"{epsilon:>8g}{entries:>4}{levels:>8}{row['entries']:>9.2f}{row['bytes']:>8.2f}"
                    f"{row['coding']:>9.4f}{row['tail']:>9.4f}{row['coding'] + row['tail']:>9.4f}"
                    f"{row['agreement']:>8.2%}{row['read_us']:>9.1f}"
                )
                sys.stdout.flush()
    print(
        f"\n{len(utterances)} utterances, {row['frames']:.0f} frames of {teacher.frame_shift_ms:g} ms, "
        f"{len(teacher.vocabulary)} symbols; blank {row['blanks']:.1%}, entropy {row['entropy']:.3f} nats; "
        f"dense float32 would take {4 * len(teacher.vocabulary)} bytes a frame"
    )


if __name__ == "__main__":
    main()
