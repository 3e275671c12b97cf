"""Cost of silence and level in training: audio that the model reads, and time to make the batches from the cache.

python benchmarks/silence_and_level.py exp/synthetic/manifests/train.jsonl
"""

import sys
import time
from pathlib import Path

from asr_kd.corpora.manifest import read_manifest
from asr_kd.features.augment import NO_AUGMENTATION, Augmentation
from asr_kd.training.batch import collate_batch
from asr_kd.training.batch_sampler import DurationBatchSampler
from asr_kd.training.dataset import SpeechDataset


def main() -> None:
    """Print a row for each setting; the two take turns in one process."""
    utterances = read_manifest(Path(sys.argv[1]))
    dataset = SpeechDataset(utterances, [[1]] * len(utterances), 1.0, 4_000)
    kinds = {"none": NO_AUGMENTATION, "default": Augmentation(spec_augment=None, ramp_share=0.0)}
    seconds, frames, batches = (dict.fromkeys(kinds, 0.0) for _ in range(3))
    for epoch in range(4):
        for name, augmentation in kinds.items():
            sampler = DurationBatchSampler([u.duration for u in utterances], augmentation, 16.0, 1)
            sampler.set_epoch(epoch + 1)
            for draws in sampler:
                start = time.perf_counter()
                batch = collate_batch([dataset[draw] for draw in draws])
                if epoch:  # the first epoch computes filter banks
                    seconds[name] += time.perf_counter() - start
                    frames[name] += batch.features.shape[0] * batch.features.shape[1]
                    batches[name] += 1
    for name in kinds:
        per_batch = 1000 * seconds[name] / batches[name]
        print(f"{name:8} {per_batch:6.2f} ms a batch, {frames[name] / frames['none']:.3f} x the audio")


if __name__ == "__main__":
    main()
