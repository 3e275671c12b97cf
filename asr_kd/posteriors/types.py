"""Types of frame posteriors, the choice of entries to keep, and their padding into a batch.

Shapes: B utterances, T frames, V vocabulary, K kept entries a frame.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor


class DensePosteriors(NamedTuple):
    """Log-probabilities over the whole vocabulary."""

    log_probs: Tensor  # [B, T, V] float
    lens: Tensor  # [B] int64, frames that are not padding


class SoftTargets(NamedTuple):
    """The largest probabilities of a teacher's frames; what is missing to 1 is the tail.

    An entry of probability 0 is filler and means nothing, whatever its token. Of one utterance without B and `lens`.
    """

    tokens: Tensor  # [B, T, K] integer; distinct within a frame where the probability is not 0
    probs: Tensor  # [B, T, K] float32; 0 where fewer than K entries were kept
    lens: Tensor | None = None  # [B] int64, frames that are not padding; None where nothing is padded

    @property
    def tail(self) -> Tensor:
        """Mass outside the kept entries, [B, T]."""
        return (1.0 - self.probs.sum(-1)).clamp_min(0.0)

    def argmax(self) -> Tensor:
        """The most probable token of each frame, [B, T] int64; at least one entry is kept in a frame."""
        return self.tokens.long().gather(-1, self.probs.argmax(-1, keepdim=True)).squeeze(-1)


Parts = TypeVar("Parts")


def map_tensors(parts: Parts, change: Callable[[Tensor], Tensor]) -> Parts:
    """Return named tuples and mappings, in each other or alone, with every tensor changed and the rest as it is."""
    changed: Any = parts
    if isinstance(parts, Tensor):
        changed = change(parts)
    elif isinstance(parts, tuple) and hasattr(parts, "_fields"):
        changed = type(parts)(*(map_tensors(part, change) for part in parts))
    elif isinstance(parts, Mapping):
        changed = {key: map_tensors(part, change) for key, part in parts.items()}
    return changed


def keep_nucleus(probs: Tensor, epsilon: float, max_entries: int) -> SoftTargets:
    """Keep the largest entries of each frame until their mass is at least 1 − ε, at most `max_entries`.

    Nothing is renormalised: the rest is the tail. Equal probabilities are kept in the order of their token.

    Args:
        probs: [..., V], each frame summing to 1.
        epsilon: mass that may stay outside, in [0, 1).
        max_entries: K, at least 1; more than V keeps V.

    Returns:
        Entries by falling probability, [..., K] (int64, float32); fillers are token 0 with probability 0.

    Raises:
        ValueError: `epsilon` or `max_entries` out of range.
    """
    if not 0.0 <= epsilon < 1.0 or max_entries < 1:
        raise ValueError(f"epsilon={epsilon} must be in [0, 1) and max_entries={max_entries} at least 1")
    ordered, tokens = probs.float().sort(dim=-1, descending=True, stable=True)
    ordered, tokens = ordered[..., :max_entries], tokens[..., :max_entries]
    before = ordered.cumsum(-1) - ordered  # mass of the larger ones: an entry is kept while that is too little
    kept = (before < 1.0 - epsilon) & (ordered > 0)
    kept[..., 0] = True
    return SoftTargets(tokens.masked_fill(~kept, 0), ordered.masked_fill(~kept, 0.0))


def collate(items: Sequence[SoftTargets], num_frames: int | None = None) -> SoftTargets:
    """Pad utterances to one length and one number of entries.

    Args:
        items: one an utterance, at least one; tokens and probabilities [T, K].
        num_frames: T of the batch; without it that of the longest utterance.

    Returns:
        Posteriors [B, T, K] (tokens int32, probabilities float32; padding is filler) and lengths [B] int64.

    Raises:
        ValueError: an utterance is longer than `num_frames`: nothing is cropped.
    """
    lens = torch.tensor([item.tokens.shape[0] for item in items])
    frames = int(lens.max()) if num_frames is None else num_frames
    if int(lens.max()) > frames:
        raise ValueError(f"targets of {int(lens.max())} frames do not fit into a batch of {frames}")
    shape = len(items), frames, max(item.tokens.shape[1] for item in items)
    tokens, probs = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape)
    for row, item in enumerate(items):
        num_frames, width = item.tokens.shape
        tokens[row, :num_frames, :width] = item.tokens
        probs[row, :num_frames, :width] = item.probs
    return SoftTargets(tokens, probs, lens)


STEPS = 127
"""Of an int8 on either side of 0."""


def array_names(layer: int) -> tuple[str, str]:
    """Return the names of a layer's two arrays in a store: codes and scales."""
    return f"layer-{layer}", f"layer-{layer}-scale"


def is_layer(name: str) -> bool:
    """Return whether an array of a store is a layer's codes, which have a row for each frame."""
    return name.startswith("layer-") and not name.endswith("-scale")


def quantise(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [T, D'] int8 and scales [1, D'] float32 of hidden states [T, D'] that are finite."""
    hidden = hidden.float()
    largest = hidden.abs().amax(0, keepdim=True) if len(hidden) else hidden.new_zeros(1, hidden.shape[1])
    scale = (largest / STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    return (hidden / scale).round().clamp(-STEPS, STEPS).to(torch.int8), scale


def dequantise(codes: Tensor, scale: Tensor) -> Tensor:
    """Hidden states [.., T, D'] float32 of codes [.., T, D'] and scales [.., 1, D']."""
    return codes.float() * scale
