"""Tokens that would meet in one coarser frame, moved apart: the nearest frames that keep each token to itself.

A frame can say one token, and a doubled letter needs a blank frame between. Knows best paths only.

Shapes: B utterances, T frames of the finer grid.
"""

import torch
from torch import Tensor

from asr_kd.decoding.greedy import first_emissions
from asr_kd.posteriors.measures import frame_mask

MOST_MOVED_FRAMES = 1
"""How far from its time a token may be moved, in coarser frames."""


def keep_apart(path: Tensor, positions: Tensor, scale: int, lens: Tensor, target_lens: Tensor, blank_id: int) -> Tensor:
    """Give every token of a best path a coarser frame of its own, with a blank one between equal tokens.

    Tokens move as little as possible: the largest move in time is the least that keeps them apart (isotonic
    regression in the maximum norm: the midpoint of the running maximum and of the running minimum from behind).
    Tokens that time already keeps apart stay where they are; those that would have to move by more than
    `MOST_MOVED_FRAMES` may still meet.

    Args:
        path: likeliest token a frame, [B, T].
        positions: where the frames lie on the coarser grid, see `FrameGrid.positions_of`, [T].
        scale: parts of a coarser frame in those.
        lens: frames, [B].
        target_lens: coarser frames, [B].
        blank_id: CTC's blank.

    Returns:
        The coarser frame of each, never falling, [B, T].
    """
    path = path.masked_fill(~frame_mask(lens, path.shape[1]), blank_id)
    emitted = first_emissions(path, torch.full_like(path[:, :1], blank_id), blank_id)
    index = torch.arange(path.shape[1], device=path.device).expand_as(path)
    latest = index.masked_fill(~emitted, -1).cummax(1).values  # where the token being said, or said last, began
    previous = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)
    repeated = emitted & (previous >= 0) & (path == path.gather(1, previous.clamp_min(0)))
    last = target_lens.clamp_min(1)[:, None] - 1
    cells = positions.div(scale, rounding_mode="floor").clamp_min(0).minimum(last)
    moved = _spread(positions, scale, emitted, repeated, last)
    moved = moved.maximum(cells - MOST_MOVED_FRAMES).minimum(cells + MOST_MOVED_FRAMES).clamp_min(0).minimum(last)
    first, end = _limits(path == blank_id, moved, latest, repeated, last)
    return torch.where(emitted, moved, cells.maximum(first).minimum(end)).clamp_min(0).cummax(1).values


def _spread(positions: Tensor, scale: int, emitted: Tensor, repeated: Tensor, last: Tensor) -> Tensor:
    """The coarser frame of each emission, [B, T]; entries of other frames mean nothing."""
    needed = torch.where(emitted, 1 + repeated.int(), 0).cumsum(1)
    needed = needed - needed.gather(1, emitted.int().argmax(1, keepdim=True))  # frames from the first token to this
    slack = positions - scale * needed  # falls where tokens meet; once it never falls, they are apart
    far = torch.iinfo(slack.dtype).max // 4
    highest = slack.masked_fill(~emitted, -far).cummax(1).values
    lowest = _cummin_from_behind(slack.masked_fill(~emitted, far))
    middle = (highest + lowest).div(2 * scale, rounding_mode="floor")
    room = (last - needed.amax(1, keepdim=True)).clamp_min(0)
    return middle.clamp_min(0).minimum(room) + needed


def _limits(silent: Tensor, moved: Tensor, latest: Tensor, repeated: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """First and last coarser frame for what is no emission: a token's further frames, and blanks between tokens."""
    size = silent.shape[1]
    index = torch.arange(size, device=silent.device)
    emissions = torch.where(latest == index, index, size)
    following = torch.cat([_cummin_from_behind(emissions)[:, 1:], torch.full_like(latest[:, :1], size)], 1)
    ends = following == size
    following = following.clamp_max(size - 1)
    gap = (repeated.gather(1, following) & ~ends).long()  # the same token comes next: one blank frame before it
    first = torch.where(latest < 0, 0, moved.gather(1, latest.clamp_min(0)) + torch.where(silent, gap, 0))
    end = moved.gather(1, following) - gap - torch.where(silent, 0, 1)
    return first, torch.where(ends, last, end)


def _cummin_from_behind(values: Tensor) -> Tensor:
    return values.flip(1).cummin(1).values.flip(1)
