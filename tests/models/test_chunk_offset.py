"""The random first chunk in training: masks by hand, drawn in training only, and an utterance after silence."""

import torch

from asr_kd.models.acoustic_model import FULL_CONTEXT
from asr_kd.models.conformer import Conformer
from asr_kd.models.layers import Dropout
from asr_kd.models.layout import visible_frames
from asr_kd.models.settings import Context
from tests.helpers.tiny_models import tiny_model

LENS = torch.tensor([160, 120])


def without_dropout(model: Conformer) -> Conformer:
    for module in model.modules():
        if isinstance(module, Dropout):
            module.probability = 0.0
    return model


def features(batch: int = 2) -> torch.Tensor:
    return torch.randn(1, 160, 80, generator=torch.Generator().manual_seed(3)).expand(batch, -1, -1) * 2 - 5


def test_the_first_chunk_is_shorter_by_the_offset():
    allowed = visible_frames(6, Context(chunk_frames=3, left_context_frames=2), torch.tensor([0, 1]))
    rows = [["".join("x" if seen else "." for seen in row) for row in one.tolist()] for one in allowed]
    assert rows[0] == ["xxx...", "xxx...", "xxx...", ".xxxxx", ".xxxxx", ".xxxxx"]
    assert rows[1] == ["xx....", "xx....", "xxxxx.", "xxxxx.", "xxxxx.", "...xxx"]


def test_an_offset_of_a_chunk_changes_nothing():
    context = Context(4, 8)
    assert visible_frames(30, context, torch.tensor([4])).equal(visible_frames(30, context, torch.tensor([0])))


def test_without_a_context_all_is_visible():
    assert bool(visible_frames(5, None, torch.zeros(1, dtype=torch.int64)).all())


def test_offsets_are_drawn_in_training_and_not_in_evaluation():
    model, lens = without_dropout(tiny_model()), torch.tensor([160] * 12)
    plain = model(features(12), lens).log_probs
    model.random_chunk_offset = True
    assert model(features(12), lens).log_probs.equal(plain)
    model.train()
    torch.manual_seed(0)
    first = model(features(12), lens).log_probs
    torch.manual_seed(0)
    assert model(features(12), lens).log_probs.equal(first)
    assert first.isfinite().all()
    assert len({tuple(row[0].tolist()) for row in first}) > 3


def test_full_context_has_no_chunks_to_move():
    model = without_dropout(tiny_model()).train()
    model.random_chunk_offset = True
    plain = model(features(), LENS, FULL_CONTEXT).log_probs
    assert model(features(), LENS, FULL_CONTEXT).log_probs.equal(plain)
    whole = without_dropout(tiny_model(streaming=False)).train()
    whole.random_chunk_offset = True
    assert whole(features(), LENS).log_probs.equal(whole(features(), LENS).log_probs)


def test_chunks_of_one_frame_are_allowed():
    model = tiny_model(chunk_frames=1).train()
    model.random_chunk_offset = True
    assert model(features(8), torch.tensor([160] * 8)).log_probs.isfinite().all()
