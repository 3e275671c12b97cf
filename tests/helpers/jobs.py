"""Jobs that train in seconds on a dozen noises with made-up transcripts; for tests in this process and in others."""

from pathlib import Path

import pytest
import soundfile

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import StoppedEarly
from asr_kd.features.augment import Augmentation
from asr_kd.models.settings import ConformerSettings, Context, Streaming
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings
from asr_kd.training.train import train
from asr_kd.training.training_job import Control, TrainingJob
from tests.helpers.tiny_models import noise_speech

WORDS = ["BAD", "CAB", "DAB", "FACE", "BEAD", "CAFE"]


class Recorder:
    """A progress that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def update(self, *arguments):
        pass

    def message(self, text):
        self.lines.append(text)


def stop_after(steps: int):
    """A stop that comes after so many questions; one is asked a step."""
    asked = 0

    def reason():
        nonlocal asked
        asked += 1
        return "the test says so" if asked == steps else None

    return reason


def noises(folder: Path) -> list[Utterance]:
    """Twelve noises of 1.0 to 2.1 s, written once."""
    made = []
    for index in range(12):
        seconds = 1.0 + 0.1 * index
        path = folder / f"noise-{index}.wav"
        if not path.exists():
            soundfile.write(path, noise_speech(seconds, seed=index).numpy(), 16_000)
        made.append(Utterance(f"noise-{index}", path, seconds, WORDS[index % len(WORDS)], f"speaker-{index % 3}"))
    return made


def job_on(utterances: list[Utterance], train: list[Utterance] | None = None, **changes) -> TrainingJob:
    """A job on the first nine, with three for dev; `settings` and `model` change parts of those."""
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
    model = {
        **{"width": 16, "layers": 2, "heads": 2, "feed_forward": 16, "kernel": 3, "subsampling_channels": 2},
        "streaming": streaming,
        **changes.pop("model", {}),
    }
    fields = {
        "name": "student",
        "key": "of the test",
        "model": ConformerSettings(**model),
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


def assert_resumes_exactly(job: TrainingJob, folder: Path, *steps: int) -> None:
    """Train in one go, and again with stops after so many steps each: weights and curves are equal byte by byte."""
    train(job, folder / "whole", Control())
    for count in steps:
        with pytest.raises(StoppedEarly):
            train(job, folder / "pieces", Control(should_stop=stop_after(count)))
    train(job, folder / "pieces", Control())
    assert weights_of(folder / "pieces") == weights_of(folder / "whole")
    assert (folder / "pieces" / "curve.jsonl").read_text() == (folder / "whole" / "curve.jsonl").read_text()


def weights_of(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()
