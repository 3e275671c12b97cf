"""Size and speed of the soft-target store. Prints a table.

    python benchmarks/store.py --stores recipes/AN4/weights/targets [--reads 20000]
    python benchmarks/store.py --synthetic 500 5000
    python benchmarks/store.py TEACHER MANIFEST… [--reads 20000] [--batch-size 8]

`--stores` measures stores that exist. `--synthetic` measures random posteriors over so many subwords: 300 utterances of
100 to 400 frames, tokens drawn by Zipf's law. With a TEACHER (a model folder, or a source as in a recipe) its
posteriors of the manifests are stored, and two other formats are measured beside ours:

    hdf5         padded float32 log-probabilities keyed by batch number, batches sorted by length, as speechbrain's
                 TIMIT distillation recipe wrote them (extra `bench`). A row of a batch is read here; that recipe read
                 whole batches in the order in which they were written
    safetensors  float32 log-probabilities, one tensor an utterance

All formats read the same utterances in the same random order. `reads/s` counts utterances a CPU-second once everything
is in memory; `decode` is the CPU time a frame of decompressing every block once. One thread.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from soft_target_table import compute_posteriors, open_any
from torch import Tensor

from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.fbank import fbank
from asr_kd.posteriors import keep_nucleus
from asr_kd.targets import Store, TargetSettings
from asr_kd.targets.shard import Shard, ShardRow, block_cache, shard_bytes

Read = Callable[[str], object]
ROUNDS = 5
SYNTHETIC_UTTERANCES = 300


def write_shard(path: Path, log_probs: Mapping[str, Tensor], blank_id: int) -> tuple[Read, float]:
    """Write ours with default settings; return its reader and the CPU time of decoding in µs a frame."""
    settings = TargetSettings()
    codec = settings.codec(next(iter(log_probs.values())).shape[-1], blank_id)
    rows = {}
    for name, dense in log_probs.items():
        kept = keep_nucleus(dense.exp(), settings.epsilon, settings.max_entries)
        rows[name] = [ShardRow(codec.pack(kept.tokens.numpy(), kept.probs.numpy()))]
    path.write_bytes(shard_bytes(codec, rows))
    shard = Shard(path, codec, 1, block_cache(1_000_000))
    frames = sum(len(dense) for dense in log_probs.values())
    decode = decode_us(lambda name: shard.read(name, 0), sorted(log_probs), frames)
    return lambda name: shard.read(name, 0), decode


def decode_us(read: Read, ids: Iterable[str], frames: int) -> float:
    """CPU time of the first read of every utterance, in order, in µs a frame."""
    start = time.process_time()
    for name in ids:
        read(name)
    return 1e6 * (time.process_time() - start) / frames


def write_hdf5(path: Path, dense: Mapping[str, Tensor], utterances: Sequence[Utterance], batch_size: int) -> Read:
    """Batches as groups `train/NUMBER/t0`, padded with zeros."""
    import h5py  # of the extra `bench`; the other tables do not need it

    ordered = [utterance.id for utterance in sorted(utterances, key=lambda item: item.duration)]
    place: dict[str, tuple[str, int]] = {}
    with h5py.File(path, "w") as file:
        for start in range(0, len(ordered), batch_size):
            ids = ordered[start : start + batch_size]
            batch = torch.nn.utils.rnn.pad_sequence([dense[item] for item in ids], batch_first=True)
            name = f"train/{start // batch_size}/t0/p_ctc_tea"
            file.create_dataset(name, data=batch.numpy())
            place |= {item: (name, row) for row, item in enumerate(ids)}
    file = h5py.File(path, "r")

    def read(utterance_id: str) -> Tensor:
        name, row = place[utterance_id]
        return torch.from_numpy(file[name][row, : len(dense[utterance_id])])

    return read


def write_safetensors(path: Path, dense: Mapping[str, Tensor]) -> Read:
    """One tensor an utterance."""
    save_file({name: tensor.contiguous() for name, tensor in dense.items()}, path)
    file = safe_open(path, framework="pt")
    # Mapped memory is not read before it is touched; a training step would.
    return lambda utterance_id: file.get_tensor(utterance_id).clone()


def rates(readers: Mapping[str, Read], ids: Sequence[str]) -> dict[str, float]:
    """Utterances a CPU-second, the median of interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for round_ in range(ROUNDS + 1):
        for name, read in readers.items():
            start = time.process_time()
            for utterance_id in ids:
                read(utterance_id)
            if round_ > 0:  # the first one opens files and fills caches
                seconds[name].append(time.process_time() - start)
    return {name: len(ids) / median(taken) for name, taken in seconds.items()}


def features_rate(utterances: Sequence[Utterance]) -> float:
    """Utterances a CPU-second of what training does beside: audio read, features computed."""
    start = time.process_time()
    for utterance in utterances:
        fbank(read_utterance(utterance))
    return len(utterances) / (time.process_time() - start)


def synthetic_posteriors(vocab_size: int) -> dict[str, Tensor]:
    """Peaky log-probabilities: half of the frames certain blanks, the others a token by Zipf's law and its rivals."""
    generator = torch.Generator().manual_seed(vocab_size)
    zipf = 1.0 / torch.arange(1, vocab_size)
    found = {}
    for index in range(SYNTHETIC_UTTERANCES):
        frames = int(torch.randint(100, 401, (), generator=generator))
        logits = torch.randn(frames, vocab_size, generator=generator)
        logits[:, 1:] += zipf.log() / 2
        tokens = 1 + torch.multinomial(zipf, frames // 4 + 1, replacement=True, generator=generator)
        best = tokens.repeat_interleave(4)[:frames]
        best[torch.arange(frames) % 4 < 2] = 0
        logits[torch.arange(frames), best] += 14.0 + 2 * torch.randn(frames, generator=generator)
        found[f"utterance-{index:05d}"] = logits.log_softmax(-1)
    return found


def print_row(name: str, num_bytes: float, decode: float, reads: float) -> None:
    """One line; the decoding time is left out where there is none."""
    decoded = f"{decode:>14.3f}" if decode else f"{'':>14}"
    print(f"{name:<28}{num_bytes:>12.2f}{decoded}{reads:>12.0f}")


def measure_store(folder: str, num_reads: int) -> None:
    """Row of a store that exists; bytes are those of all that its shards hold."""
    store = Store.open(folder)
    asked = [(name, variant) for name in store.ids() for variant in store.info.variants]  # opens the shards

    def read(item: tuple[str, str]) -> object:
        return store.read(*item)

    start = time.process_time()
    for item in asked:
        read(item)
    decode = 1e6 * (time.process_time() - start) / store.info.frames
    asked = random.Random(0).choices(asked, k=num_reads)
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        for item in asked:
            read(item)
        taken.append(time.process_time() - start)
    print_row(folder, store.info.bytes_per_frame, decode, num_reads / median(taken))


def compare(source: str, manifests: Sequence[Path], num_reads: int, batch_size: int) -> None:
    """Rows of ours and of the other formats, of a teacher's posteriors."""
    teacher = open_any(source)
    utterances = [utterance for path in manifests for utterance in read_manifest(path)]
    dense = compute_posteriors(teacher, utterances)
    frames = sum(len(tensor) for tensor in dense.values())
    ids = random.Random(0).choices(sorted(dense), k=num_reads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, decode = write_shard(folder / "ours", dense, teacher.vocabulary.blank_id)
        readers: dict[str, Read] = {
            "ours": ours,
            "hdf5": write_hdf5(folder / "hdf5", dense, utterances, batch_size),
            "safetensors": write_safetensors(folder / "safetensors", dense),
        }
        found = rates(readers, ids)
        for kind, rate in found.items():
            print_row(kind, (folder / kind).stat().st_size / frames, decode if kind == "ours" else 0.0, rate)
    beside = features_rate(utterances[:: max(1, len(utterances) // 100)])
    print(
        f"\n{len(dense)} utterances, {frames} frames of {teacher.frame_shift_ms:g} ms, "
        f"{len(teacher.vocabulary)} symbols.\n"
        f"Reading audio and computing features, which training does beside: {beside:.0f} utterances a CPU-second."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", nargs="?")
    parser.add_argument("manifests", nargs="*", type=Path)
    parser.add_argument("--stores", nargs="+", default=[])
    parser.add_argument("--synthetic", nargs="+", type=int, default=[])
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':<28}{'bytes/frame':>12}{'decode µs/fr':>14}{'reads/CPU-s':>12}")
    for folder in args.stores:
        measure_store(folder, args.reads)
    for size in args.synthetic:
        dense = synthetic_posteriors(size)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard.safetensors"
            read, decode = write_shard(path, dense, 0)
            num_bytes = path.stat().st_size / sum(len(tensor) for tensor in dense.values())
        found = rates({"": read}, random.Random(0).choices(sorted(dense), k=args.reads))
        print_row(f"synthetic, {size} subwords", num_bytes, decode, found[""])
    if args.teacher:
        compare(args.teacher, args.manifests, args.reads, args.batch_size)


if __name__ == "__main__":
    main()
