"""Types of frame posteriors: the choice of entries to keep, padding into a batch, silence in front, times of frames.

In the silence in front the teacher's posteriors are a certain blank. Its layers are unknown there and count nothing.

Shapes: B utterances, T frames or features, Q frames of the teacher, V vocabulary, K kept entries a frame, L frames of
silence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

LOWEST_LOG_PROB = -1.0e4
"""Stands for the logarithm of 0: finite, so that 0 · log 0 is 0 and no gradient becomes NaN."""


class DensePosteriors(NamedTuple):
    """Natural log-probabilities over the whole vocabulary; frames beyond `lens` hold anything."""

    log_probs: Tensor  # [B, T, V] float
    lens: Tensor  # [B] int64, frames that are not padding


class SoftTargets(NamedTuple):
    """The largest probabilities of a teacher's frames; what is missing to 1 is the tail.

    An entry of probability 0 is filler and means nothing, whatever its token. The targets of a single utterance have no
    batch axis ([T, K]) and no `lens`.
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


def after_blanks(posteriors: SoftTargets, frames: int, blank_id: int) -> SoftTargets:
    """Return the posteriors [Q, K] of an utterance after so many frames of certain blanks, [L + Q, K]."""
    tokens, probs = (part.new_zeros(frames, part.shape[1]) for part in (posteriors.tokens, posteriors.probs))
    tokens[:, 0], probs[:, 0] = blank_id, 1.0
    return SoftTargets(torch.cat([tokens, posteriors.tokens]), torch.cat([probs, posteriors.probs]))


def after_zeros(name: str, array: Tensor, frames: int) -> Tensor:
    """Return a store's array after so many frames of zeros where it has a row for each frame, else as it is."""
    return torch.cat([array.new_zeros(frames, *array.shape[1:]), array]) if is_layer(name) else array


def without_lead(features: Tensor, lead_lens: Tensor, num_frames: int) -> Tensor:
    """Return features [B, T, F] from the end of each utterance's silence on, [B, num_frames, F].

    Args:
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


_FINEST = 1_000_000
"""Times are read as fractions of at most this denominator, so that 33.333… ms is a third of 100 and ties are ties."""


@dataclass(frozen=True)
class FrameGrid:
    """Frames whose centres lie at `offset_ms` + i · `shift_ms` after the start of the audio.

    A frame's cell is the stretch of one shift around its centre, its beginning included, its end not.

    Raises:
        ValueError: a shift that is not positive, or a time that is not finite.
    """

    shift_ms: float
    offset_ms: float

    def __post_init__(self) -> None:
        if not (0.0 < self.shift_ms < float("inf") and abs(self.offset_ms) < float("inf")):
            raise ValueError(f"frames every {self.shift_ms} ms from {self.offset_ms} ms on: expected finite, above 0")

    def __str__(self) -> str:
        return f"{self.shift_ms:g} ms frames centred at {self.offset_ms:g} + {self.shift_ms:g} i ms"

    def centre_ms(self, frame: int) -> float:
        """Centre of a frame after the start of the audio."""
        return self.offset_ms + frame * self.shift_ms

    def cells_of(self, other: "FrameGrid", num_frames: int, device: torch.device | str = "cpu") -> Tensor:
        """For each of another grid's first frames, the frame of this grid in whose cell its centre lies.

        Exact for any ratio of the shifts. Seen the other way it is the nearest frame of this grid, the later of two.

        Returns:
            [num_frames] int64, never falling; negative before this grid's first cell.
        """
        positions, scale = self.positions_of(other, num_frames, device)
        return positions.div(scale, rounding_mode="floor")

    def positions_of(
        self, other: "FrameGrid", num_frames: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, int]:
        """As `cells_of`, with the place inside the cell: [num_frames] int64 in parts of a cell, and how many parts."""
        shift = _exact(self.shift_ms)
        first = (_exact(other.offset_ms) - _exact(self.offset_ms)) / shift + Fraction(1, 2)
        step = _exact(other.shift_ms) / shift
        scale = first.denominator * step.denominator
        return torch.arange(num_frames, device=device) * int(step * scale) + int(first * scale), scale


def _exact(milliseconds: float) -> Fraction:
    return Fraction(milliseconds).limit_denominator(_FINEST)
