"""Which device a process takes: the only GPU, its own among several processes, or a refusal that says why."""

import pytest
import torch

from asr_kd.distributed import Ranks
from asr_kd.errors import RecipeError
from asr_kd.recipe.context import choose_device

SECOND = Ranks(rank=3, count=4, local_rank=1)


@pytest.mark.parametrize(
    ("gpus", "wanted", "ranks", "chosen"),
    [
        (0, "auto", Ranks(), "cpu"),
        (0, "auto", SECOND, "cpu"),
        (2, "auto", Ranks(), "cuda"),
        (2, "cuda:1", Ranks(), "cuda:1"),
        (2, "auto", SECOND, "cuda:1"),
        (2, "cuda", SECOND, "cuda:1"),
        (2, "cpu", SECOND, "cpu"),
    ],
)
def test_each_process_takes_its_own(monkeypatch, gpus, wanted, ranks, chosen):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device(wanted, ranks) == torch.device(chosen)


@pytest.mark.parametrize(
    ("gpus", "wanted", "ranks", "said"),
    [
        (1, "cuda:1", Ranks(), "there is no cuda:1: PyTorch finds 1 GPUs"),
        (1, "auto", SECOND, "no more processes on a machine than it has GPUs"),
        (2, "cuda:0", SECOND, "cuda:0 for 4 processes"),
    ],
)
def test_a_device_that_cannot_be_is_refused(monkeypatch, gpus, wanted, ranks, said):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(RecipeError, match=said):
        choose_device(wanted, ranks)
