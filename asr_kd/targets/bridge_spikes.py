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
    latest = index.masked_fill(~emitted, -1).cummax(1).values  # where the token of now, or the last one, began
    previous = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)
    repeated = emitted & (previous >= 0) & (path == path.gather(1, previous.clamp_min(0)))
    last = target_lens.clamp_min(1)[:, None] - 1
    cells = positions.div(scale, rounding_mode="floor").clamp_min(0).minimum(last)
    moved = _spread(positions, scale, emitted, repeated, last)
    moved = moved.maximum(cells - MOST_MOVED_FRAMES).minimum(cells + MOST_MOVED_FRAMES).clamp_min(0).minimum(last)
    spoken = path != blank_id
    return _fill_between(spoken, torch.where(emitted, moved, cells), cells, emitted, repeated)


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


def _fill_between(spoken: Tensor, moved: Tensor, cells: Tensor, emitted: Tensor, repeated: Tensor) -> Tensor:
    """Let the frames around moved emissions follow: a token's further frames, then blanks; by time where they may."""
    size = spoken.shape[1]
    index = torch.arange(size, device=spoken.device).expand_as(moved)
    following = _cummin_from_behind(index.masked_fill(~emitted, size))[:, 1:]
    following = torch.cat([following, torch.full_like(index[:, :1], size)], 1)
    ends = following == size
    following = following.clamp_max(size - 1)
    upcoming = moved.gather(1, following)
    gap = repeated.gather(1, following) & ~ends  # the same token comes next: one blank frame before it
    # A token's further frames end before the next token begins, and before the blank frame that sets it off.
    latest = index.masked_fill(~emitted, 0).cummax(1).values
    run = cells.minimum(torch.where(ends, cells, upcoming - 1 - gap.long())).maximum(moved.gather(1, latest))
    moved = torch.where(spoken & ~emitted, run, moved)
    # Blanks lie between; where anything around them has moved, they are the blank frame between equal tokens.
    ended = index.masked_fill(~spoken, -1).cummax(1).values
    begin = moved.gather(1, ended.clamp_min(0))
    stirred = (begin != cells.gather(1, ended.clamp_min(0))) | (upcoming != cells.gather(1, following))
    gap = (gap & stirred).long()
    silent = cells.maximum(torch.where(ended < 0, 0, begin + gap)).minimum(torch.where(ends, cells, upcoming - gap))
    return torch.where(spoken, moved, silent).clamp_min(0).cummax(1).values


def _cummin_from_behind(values: Tensor) -> Tensor:
    return values.flip(1).cummin(1).values.flip(1)
