"""What all tests share: one thread, no deadlines, and real speech where there is some."""

import os
import sys
from pathlib import Path

import pytest
import speechbrain.core  # noqa: F401  (leaves lazy modules behind, see below)
import torch
from hypothesis import settings
from speechbrain.utils.importutils import LazyModule

# speechbrain leaves lazy modules behind whose import fails without k2; hypothesis looks into every loaded module.
for name in [name for name, module in sys.modules.items() if isinstance(module, LazyModule)]:
    del sys.modules[name]

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
