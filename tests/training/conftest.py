"""A corpus of a dozen noises with made-up transcripts, and jobs that train on it in seconds."""

from pathlib import Path

import pytest

from asr_kd.corpora.manifest import Utterance
from asr_kd.training.training_job import TrainingJob
from tests.helpers.jobs import job_on, noises
from tests.helpers.tiny_encoders import save_encoder


@pytest.fixture(scope="session")
def utterances(tmp_path_factory) -> list[Utterance]:
    return noises(tmp_path_factory.mktemp("noises"))


@pytest.fixture
def make_job(utterances):
    def make(train: list[Utterance] | None = None, **changes) -> TrainingJob:
        return job_on(utterances, train, **changes)

    return make


@pytest.fixture(scope="session")
def whisper_encoder(tmp_path_factory) -> Path:
    """A small random Whisper in the layout of transformers."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("encoders") / "whisper"
    save_encoder("whisper", folder)
    return folder
