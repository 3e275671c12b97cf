"""A small corpus of noise with quiet stretches, and a teacher without a model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr_kd.corpora.manifest import Utterance
from asr_kd.targets import TargetSettings
from tests.helpers.fake_teacher import FakeTeacher
from tests.helpers.noise import write_corpus


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
