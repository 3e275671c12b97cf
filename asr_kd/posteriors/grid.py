"""Times of frames: the correspondence of two grids by their centres, and targets of audio that silence precedes.

In the silence the teacher's posteriors are a certain blank. Its layers are unknown there and count nothing.

Shapes: B utterances, Q frames of the teacher, V vocabulary, K kept entries, L frames of silence, T features.
"""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from asr_kd.posteriors.measures import LOWEST_LOG_PROB
from asr_kd.posteriors.types import DensePosteriors, SoftTargets, is_layer

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
