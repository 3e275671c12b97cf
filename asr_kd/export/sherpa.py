"""A torch module with the inputs and outputs of the wire format, sherpa-onnx's zipformer2_ctc.

It renames, splits and joins caches around ``AcousticModel.stream_step``.

Shapes: N streams, L left-context frames, C chunk frames, D width, K convolution kernel, V vocabulary.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from asr_kd.models.acoustic_model import ModelLayer, StreamState
from asr_kd.models.architectures import Model
from asr_kd.runtime.backend import mask_tokens

CACHES_PER_LAYER = 6


class SherpaWire(nn.Module):
    """One streaming step in the wire format's order.

    Args:
        model: a streaming one.
        unprintable: token ids that the client must never choose.
    """

    def __init__(self, model: Model, unprintable: Sequence[int] = ()) -> None:
        super().__init__()
        self.model, self.unprintable = deepcopy(model).eval().requires_grad_(False), list(unprintable)
        for layer in self.model.layers:
            cast(ModelLayer, layer).fuse()

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """[N, 4C + 3, 80] and the states → log-probabilities [N, C, V] and the new states, in the same order."""
        *caches, embed_states, processed_lens = states
        layers = [caches[start : start + CACHES_PER_LAYER] for start in range(0, len(caches), CACHES_PER_LAYER)]
        log_probs, after = self.model.stream_step(x, _joined(layers, processed_lens))
        new_layers = [
            (key, nonlin_attn, *value.chunk(2, dim=-1), *conv.chunk(2, dim=-1))
            for key, value, conv, (_, nonlin_attn, *_) in zip(
                after.keys, after.values, after.convs, layers, strict=True
            )
        ]
        new_caches = [cache for layer in new_layers for cache in layer]
        return mask_tokens(log_probs, self.unprintable), *new_caches, embed_states, after.processed


def _joined(layers: Sequence[Sequence[Tensor]], processed_lens: Tensor) -> StreamState:
    """Join the halves of the wire format to our caches; nonlin_attn belongs to another model and is ignored."""
    return StreamState(
        keys=[key for key, *_ in layers],
        values=[torch.cat([val1, val2], dim=-1) for _, _, val1, val2, _, _ in layers],
        convs=[torch.cat([older, newer], dim=-1) for *_, older, newer in layers],
        processed=processed_lens,
    )
