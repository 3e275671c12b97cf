"""Hidden states of a teacher as they are stored: 8 bits a channel, with a scale for each channel of an utterance.

Rounding changes the layers of a trained teacher (AN4, 144 channels) by 0.5 % of their length; one scale for all would
by 0.8 to 1.2 %. The worst error is half a step, 1/254 of the channel's largest value.

Shapes: T frames, D' width of the teacher.
"""

import torch
from torch import Tensor

STEPS = 127
"""Of an int8 on either side of 0."""


def array_names(layer: int) -> tuple[str, str]:
    """What a layer's two arrays are called in a store: codes and scales."""
    return f"layer-{layer}", f"layer-{layer}-scale"


def quantise(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [T, D'] int8 and scales [1, D'] float32 of hidden states [T, D'] that are finite."""
    hidden = hidden.float()
    largest = hidden.abs().amax(0, keepdim=True) if len(hidden) else hidden.new_zeros(1, hidden.shape[1])
    scale = (largest / STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    return (hidden / scale).round().clamp(-STEPS, STEPS).to(torch.int8), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """Hidden states [.., T, D'] float32 of codes [.., T, D'] and scales [.., 1, D']."""
    return codes.float() * scale
