"""What all tests share: one thread, no deadlines, and real speech where there is some."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A loaded machine is slower with two threads than with one; and no test asserts a time.
torch.set_num_threads(1)
settings.register_profile("asr-kd", deadline=None, max_examples=50)
settings.load_profile("asr-kd")


@pytest.fixture(scope="session")
def corpora_root() -> Path:
    """The folder of real corpora; the test is skipped when there is none."""
    folder = os.environ.get("ASR_KD_CORPORA")
    if not folder:
        pytest.skip("ASR_KD_CORPORA is not set: no real speech here")
    root = Path(folder)
    if not root.is_dir():
        pytest.skip(f"ASR_KD_CORPORA names {root}, which is no folder")
    return root
