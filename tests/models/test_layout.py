"""Blocks of chunks with right context: by hand, there and back, and training on them."""

import torch

from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.layout import Blocks, Layout, layout_of
from asr_kd.models.settings import Context, Streaming
from tests.helpers.encoder_streams import ARCHITECTURES, features, small_encoder

LENS = torch.tensor([5, 3])
CONTEXT = Context(chunk_frames=2, left_context_frames=2, right_context_frames=1)


def blocks(offset: int = 0, lens: torch.Tensor = LENS) -> Blocks:
    return Blocks(lens, 5, CONTEXT, torch.full((len(lens),), offset))


def numbered() -> torch.Tensor:
    """Frames 1 to 5 of two utterances, [2, 5, 1]."""
    return torch.arange(1.0, 6.0).view(1, 5, 1).expand(2, -1, -1)


def test_a_block_is_a_chunk_and_the_frames_after_it():
    layout = blocks()
    places = torch.where(layout.valid, layout.spread(numbered())[..., 0], 0)
    assert places.tolist() == [[1, 2, 3, 3, 4, 5, 5, 0, 0], [1, 2, 3, 3, 0, 0, 0, 0, 0]]


def test_a_block_sees_itself_and_the_chunks_within_the_left_context():
    rows = ["".join("x" if seen else "." for seen in row) for row in blocks().allowed[0].tolist()]
    assert rows == 3 * ["xxx......"] + 3 * ["xx.xxx..."] + 3 * ["...xx.xxx"]


def test_with_an_offset_the_first_chunk_is_shorter():
    layout = blocks(offset=1, lens=torch.tensor([5]))
    places = torch.where(layout.valid, layout.spread(numbered()[:1])[..., 0], 0)
    assert places.tolist() == [[0, 1, 2, 2, 3, 4, 4, 5, 0]]
    assert layout.gather(layout.spread(numbered()[:1])).equal(numbered()[:1])


def test_offsets_differ_between_utterances():
    layout = Blocks(LENS, 5, CONTEXT, torch.tensor([0, 1]))
    assert layout.gather(layout.spread(numbered())).equal(numbered())


def test_convolutions_read_the_frames_before_the_block_without_its_neighbours_right_context():
    layout = blocks()
    found = layout.with_past(layout.spread(numbered()), past=3)[..., 0]
    assert found.tolist() == [
        [0, 0, 0, 1, 2, 3],
        [0, 1, 2, 3, 4, 5],
        [2, 3, 4, 5, 0, 0],
        [0, 0, 0, 1, 2, 3],
        [0, 1, 2, 3, 0, 0],
        [2, 3, 0, 0, 0, 0],
    ]
    assert layout.joined(found.unsqueeze(-1)[:, 3:]).shape == (2, 9, 1)


def test_without_right_context_frames_stay_in_their_order():
    layout = layout_of(LENS, 5, Context(2, 2), torch.zeros(1, dtype=torch.int64))
    assert type(layout) is Layout
    assert layout.gather(layout.spread(numbered())).equal(numbered())


def test_training_has_finite_gradients_at_any_offset_and_length():
    for architecture in ARCHITECTURES:
        model = small_encoder(architecture, chunk=4, right=2).train()
        model.random_chunk_offset = True
        output: EncoderOutput = model(features(90, batch=3), torch.tensor([90, 33, 8]), wanted_layers=(1,))
        assert output.log_probs.shape[1] == output.layers[1].shape[1] == int(output.lens.max())
        valid = torch.arange(output.log_probs.shape[1]) < output.lens.unsqueeze(1)
        output.log_probs[valid].square().mean().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_context_without_right_context_is_saved_as_before():
    plain = Streaming(train_contexts=[[4, 8], [8, 16, 2]])
    assert plain.train_contexts == (Context(4, 8), Context(8, 16, 2))
    assert plain.model_dump(mode="json")["train_contexts"] == [[4, 8], [8, 16, 2]]
