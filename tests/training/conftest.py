"""A corpus of a dozen noises with made-up transcripts, and jobs that train on it in seconds."""

from pathlib import Path

import pytest
import soundfile

from asr_kd.corpora.manifest import Utterance
from asr_kd.features.augment import Augmentation
from asr_kd.models.settings import ConformerSettings, Context, Streaming
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings
from asr_kd.training.train import TrainingJob
from tests.tiny_models import noise_speech

WORDS = ["BAD", "CAB", "DAB", "FACE", "BEAD", "CAFE"]


@pytest.fixture(scope="session")
def utterances(tmp_path_factory) -> list[Utterance]:
    folder = tmp_path_factory.mktemp("noises")
    made = []
    for index in range(12):
        seconds = 1.0 + 0.1 * index
        path = folder / f"noise-{index}.wav"
        soundfile.write(path, noise_speech(seconds, seed=index).numpy(), 16_000)
        made.append(Utterance(f"noise-{index}", path, seconds, WORDS[index % len(WORDS)], f"speaker-{index % 3}"))
    return made


@pytest.fixture
def make_job(utterances):
    def make(train: list[Utterance] | None = None, **changes) -> TrainingJob:
        settings = {
            "epochs": 3,
            "batch_seconds": 5.0,
            "warmup_epochs": 1.0,
            "learning_rate": 5e-3,
            "average_best": 2,
            "precision": "fp32",
            "checkpoint_minutes": 1e9,
            "augmentation": Augmentation(speeds=(0.9, 1.0, 1.1), silence_share=0.5),
            **changes.pop("settings", {}),
        }
        streaming = Streaming(chunk_frames=4, left_context_frames=8, train_contexts=(Context(4, 8), Context(8, 8)))
        model = ConformerSettings(
            width=16, layers=2, heads=2, feed_forward=16, kernel=3, subsampling_channels=2, streaming=streaming
        )
        fields = {
            "name": "student",
            "model": model,
            "train": TrainSettings(**settings),
            "distill": None,
            "vocabulary": Vocabulary.characters(WORDS),
            "normalizer": "librispeech",
            "seed": 3,
            "train_utterances": (train or utterances)[:9],
            "dev_utterances": utterances[9:],
            **changes,
        }
        return TrainingJob(**fields)

    return make


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()
