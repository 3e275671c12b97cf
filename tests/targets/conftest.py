"""A small corpus of noise with quiet stretches, and a teacher without a model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_teacher import FakeTeacher

from asr_kd.corpora.manifest import Utterance
from asr_kd.targets import TargetSettings


def write_corpus(folder: Path, count: int = 9) -> list[Utterance]:
    """Noise of 0.3 to 1.1 s: loud in the middle third; not in the order of the ids."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    utterances = []
    for index in range(count):
        samples = random.uniform(-1, 1, int(16_000 * (0.3 + 0.1 * index))) * 0.01
        third = len(samples) // 3
        samples[third : 2 * third] *= 20
        path = folder / f"noise-{index}.wav"
        soundfile.write(path, samples, 16_000)
        utterances.append(Utterance(f"u{(index * 5) % count:02d}", path, len(samples) / 16_000, "ab", "nobody"))
    return utterances


@pytest.fixture
def corpus(tmp_path: Path) -> list[Utterance]:
    return write_corpus(tmp_path / "audio")


@pytest.fixture
def teacher() -> FakeTeacher:
    return FakeTeacher()


@pytest.fixture
def settings() -> TargetSettings:
    return TargetSettings(speeds=(1.0, 0.9), shard_seconds=4.0, batch_seconds=2.0, fidelity_utterances=3)


@pytest.fixture
def shard_files() -> Callable[[Path], dict[str, bytes]]:
    """Name → content of a store's shards."""
    return lambda folder: {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.safetensors"))}
