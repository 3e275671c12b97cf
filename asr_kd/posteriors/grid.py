"""Times of frames, and the correspondence of two grids of frames by their centres."""

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

_FINEST = 1_000_000
"""Times are read as fractions of at most this denominator, so that 33.333… ms is a third of 100 and ties are ties."""


@dataclass(frozen=True)
class FrameGrid:
    """Frames whose centres lie at `offset_ms` + i · `shift_ms` after the start of the audio.

    A frame's cell is the stretch of one shift around its centre, its beginning included, its end not.

    Args:
        shift_ms: from one frame's centre to the next.
        offset_ms: the centre of frame 0.

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

        Args:
            other: whose frames to place.
            num_frames: how many.
            device: of the result.

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
