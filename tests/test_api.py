"""The Python interface: its names, and the one-call loss against the objective that recipes use."""

import subprocess
import sys

import pytest
import torch

import asr_kd
from asr_kd import api
from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.posteriors.types import SoftTargets, collate


def test_every_name_is_importable_and_others_are_refused() -> None:
    for name in asr_kd.__all__:
        assert getattr(asr_kd, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = asr_kd.nothing


def test_importing_the_package_does_not_import_torch() -> None:
    words = [sys.executable, "-c", "import asr_kd, sys; assert asr_kd.__version__; assert 'torch' not in sys.modules"]
    assert subprocess.run(words, check=False, timeout=600).returncode == 0


def _batch() -> tuple[torch.Tensor, torch.Tensor, api.SoftTargets]:
    torch.manual_seed(0)
    log_probs = torch.randn(2, 12, 5).log_softmax(-1)
    items = [SoftTargets(torch.tensor([[1, 0]] * n, dtype=torch.int32), torch.tensor([[0.7, 0.2]] * n)) for n in (8, 6)]
    return log_probs, torch.tensor([12, 9]), collate(items)


def test_the_loss_is_that_of_a_recipe() -> None:
    log_probs, lens, targets = _batch()
    tokens, token_lens = torch.tensor([[1, 2, 3], [2, 4, 0]]), torch.tensor([3, 2])
    objective = Objective.from_settings(DistillSettings(kd_weight=0.3, selection="nonblank", delay_frames=2), Shape(0))
    supervision = Supervision(References(tokens, token_lens), targets)
    expected = objective(StudentOutput(log_probs, lens), supervision, lens.sum()).total
    found = asr_kd.distill_loss(
        log_probs, lens, targets, tokens, token_lens, kd_weight=0.3, selection="nonblank", delay_frames=2
    )
    assert found.item() == expected.item()
    for given in ({"tokens": tokens}, {"token_lens": token_lens}):
        with pytest.raises(ValueError, match=r"token(s|_lens) is missing"):
            asr_kd.distill_loss(log_probs, lens, targets, **given)


def test_without_transcripts_it_is_the_divergence_alone() -> None:
    log_probs, lens, targets = _batch()
    both = asr_kd.distill_loss(log_probs, lens, targets)
    assert both.item() > 0
    # Known answer: a student equal to the teacher on every kept entry, and uniform elsewhere, has divergence 0.
    equal = torch.tensor([0.2, 0.7, 0.1 / 3, 0.1 / 3, 0.1 / 3]).log().expand(2, 8, 5)
    assert asr_kd.distill_loss(equal, torch.tensor([8, 8]), targets).abs().item() < 1e-5
