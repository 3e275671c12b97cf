"""Targets of an utterance that silence precedes: posteriors and layers move along by the frames of the silence.

In the silence the teacher's posteriors are a certain blank. Its layers are unknown there and count nothing.

Shapes: B utterances, Q frames of the teacher, V vocabulary, K kept entries, L frames of silence, T features.
"""

import torch
from torch import Tensor

from asr_kd.posteriors.measures import LOWEST_LOG_PROB
from asr_kd.posteriors.types import DensePosteriors, SparsePosteriors, is_layer


def after_blanks(posteriors: SparsePosteriors, frames: int, blank_id: int) -> SparsePosteriors:
    """Return the posteriors [Q, K] of an utterance after so many frames of certain blanks, [L + Q, K]."""
    tokens, probs = (part.new_zeros(frames, part.shape[1]) for part in posteriors)
    tokens[:, 0], probs[:, 0] = blank_id, 1.0
    return SparsePosteriors(torch.cat([tokens, posteriors.tokens]), torch.cat([probs, posteriors.probs]))


def after_zeros(name: str, array: Tensor, frames: int) -> Tensor:
    """Return a store's array after so many frames of zeros where it has a row for each frame, else as it is."""
    return torch.cat([array.new_zeros(frames, *array.shape[1:]), array]) if is_layer(name) else array


def without_lead(features: Tensor, lead_lens: Tensor, num_frames: int) -> Tensor:
    """Return features [B, T, F] from the end of each utterance's silence on, [B, num_frames, F].

    Args:
        features: with the silence in front.
        lead_lens: feature frames of silence, [B].
        num_frames: feature frames of the longest utterance; shorter ones are followed by anything.
    """
    index = (lead_lens[:, None] + torch.arange(num_frames)).clamp_max(features.shape[1] - 1).to(features.device)
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[2]))


def dense_after_blanks(posteriors: DensePosteriors, lead_lens: Tensor, blank_id: int) -> DensePosteriors:
    """Return posteriors [B, Q, V] after certain blanks, as many as the silence of each has frames of the teacher, [B].

    Returns:
        [B, Q + the longest silence, V].
    """
    blank = torch.full_like(posteriors.log_probs[:1, :1], LOWEST_LOG_PROB)
    blank[..., blank_id] = 0.0
    return DensePosteriors(_shifted(posteriors.log_probs, lead_lens, blank), posteriors.lens + lead_lens)


def layers_after_zeros(hidden: Tensor, lead_lens: Tensor) -> Tensor:
    """Return hidden states [B, Q, D'] after as many frames of zeros as the silence of each has, [B]."""
    return _shifted(hidden, lead_lens, hidden.new_zeros(1, 1, 1))


def _shifted(part: Tensor, lead_lens: Tensor, fill: Tensor) -> Tensor:
    index = (torch.arange(part.shape[1] + int(lead_lens.max())) - lead_lens[:, None]).to(part.device)
    places = index.clamp(0, part.shape[1] - 1)[..., None].expand(-1, -1, part.shape[2])
    return torch.where(index[..., None] < 0, fill, part.gather(1, places))
