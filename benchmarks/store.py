"""Our store beside two others of the same posteriors: bytes a frame, and utterances read at random. Prints a table.

    python benchmarks/store.py TEACHER MANIFEST… [--reads 2000] [--batch-size 8]

TEACHER is a model folder, or a source as in a recipe. The others are

    hdf5         padded float32 log-probabilities keyed by batch number, batches in the order of their lengths, as
                 speechbrain's TIMIT distillation recipe wrote them (extra `bench`). A row of a batch is read here;
                 that recipe read whole batches, in the order and of the size in which they were written
    safetensors  float32 log-probabilities, one tensor an utterance

All three are asked for the same utterances in the same random order, after one read of each, so everything lies in the
page cache: this measures what reading costs the processor; on a slow disk the bytes decide. One thread.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import h5py
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from soft_target_table import hear, open_any
from torch import Tensor

from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.features.fbank import fbank
from asr_kd.targets import Store, TargetSettings, extract

Read = Callable[[str], object]
ROUNDS = 5


def write_hdf5(path: Path, heard: Mapping[str, Tensor], utterances: Sequence[Utterance], batch_size: int) -> Read:
    """Batches as groups `train/NUMBER/t0`, padded with zeros."""
    ordered = [utterance.id for utterance in sorted(utterances, key=lambda item: item.duration)]
    place: dict[str, tuple[str, int]] = {}
    with h5py.File(path, "w") as file:
        for start in range(0, len(ordered), batch_size):
            ids = ordered[start : start + batch_size]
            batch = torch.nn.utils.rnn.pad_sequence([heard[item] for item in ids], batch_first=True)
            name = f"train/{start // batch_size}/t0/p_ctc_tea"
            file.create_dataset(name, data=batch.numpy())
            place |= {item: (name, row) for row, item in enumerate(ids)}
    file = h5py.File(path, "r")

    def read(utterance_id: str) -> Tensor:
        name, row = place[utterance_id]
        return torch.from_numpy(file[name][row, : len(heard[utterance_id])])

    return read


def write_safetensors(path: Path, heard: Mapping[str, Tensor]) -> Read:
    """One tensor an utterance."""
    save_file({name: tensor.contiguous() for name, tensor in heard.items()}, path)
    file = safe_open(path, framework="pt")
    # Mapped memory is not read before it is touched; a training step would.
    return lambda utterance_id: file.get_tensor(utterance_id).clone()


def rates(readers: Mapping[str, Read], ids: Sequence[str]) -> dict[str, float]:
    """Utterances a second; the readers take turns, and the median of the rounds counts."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for round_ in range(ROUNDS + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            for utterance_id in ids:
                read(utterance_id)
            if round_ > 0:  # the first one opens files and fills caches
                seconds[name].append(time.perf_counter() - start)
    return {name: len(ids) / median(taken) for name, taken in seconds.items()}


def features_rate(utterances: Sequence[Utterance]) -> float:
    """Utterances a second of what training does beside: audio read, features computed."""
    taken = []
    for utterance in utterances:
        start = time.perf_counter()
        fbank(read_utterance(utterance))
        taken.append(time.perf_counter() - start)
    return len(taken) / sum(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--reads", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    teacher = open_any(args.teacher)
    utterances = [utterance for path in args.manifests for utterance in read_manifest(path)]
    heard = hear(teacher, utterances)
    frames = sum(len(tensor) for tensor in heard.values())
    ids = random.Random(0).choices(sorted(heard), k=args.reads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        extract(teacher, utterances, TargetSettings(), folder / "store")
        readers: dict[str, Read] = {
            "ours": Store.open(folder / "store").read,
            "hdf5": write_hdf5(folder / "padded.hdf5", heard, utterances, args.batch_size),
            "safetensors": write_safetensors(folder / "dense.safetensors", heard),
        }
        sizes = {
            "ours": sum(path.stat().st_size for path in (folder / "store").glob("*.safetensors")),
            "hdf5": (folder / "padded.hdf5").stat().st_size,
            "safetensors": (folder / "dense.safetensors").stat().st_size,
        }
        found = rates(readers, ids)
    beside = features_rate(utterances[:: max(1, len(utterances) // 100)])
    per_read = sum(len(heard[item]) for item in ids) / len(ids)
    print(f"{'':<14}{'bytes/frame':>12}{'ratio':>8}{'reads/s':>10}{'ratio':>8}{'µs/frame':>10}")
    for store in readers:
        print(
            f"{store:<14}{sizes[store] / frames:>12.2f}{sizes[store] / sizes['ours']:>8.1f}{found[store]:>10.0f}"
            f"{found[store] / found['ours']:>8.2f}{1e6 / found[store] / per_read:>10.2f}"
        )
    print(
        f"\n{len(heard)} utterances, {frames} frames of {teacher.frame_shift_ms:g} ms, "
        f"{len(teacher.vocabulary)} symbols; {args.reads} reads of {per_read:.0f} frames on average.\n"
        f"Reading audio and computing features, which training does beside: {beside:.0f} utterances/s."
    )


if __name__ == "__main__":
    main()
