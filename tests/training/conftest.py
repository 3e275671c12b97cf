"""A corpus of a dozen noises with made-up transcripts, and jobs that train on it in seconds."""

import pytest

from asr_kd.corpora.manifest import Utterance
from asr_kd.training.training_context import TrainingJob
from tests.helpers.jobs import job_on, noises


@pytest.fixture(scope="session")
def utterances(tmp_path_factory) -> list[Utterance]:
    return noises(tmp_path_factory.mktemp("noises"))


@pytest.fixture
def make_job(utterances):
    def make(train: list[Utterance] | None = None, **changes) -> TrainingJob:
        return job_on(utterances, train, **changes)

    return make
