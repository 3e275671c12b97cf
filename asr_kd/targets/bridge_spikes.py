"""Tokens that would meet in one coarser frame, moved apart: the nearest frames that keep each token to itself.

A frame can say one token, and a doubled letter needs a blank frame between. Knows best paths only.

Shapes: B utterances, T frames of the finer grid.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from asr_kd.decoding.greedy import first_emissions
from asr_kd.posteriors.measures import frame_mask

MOST_MOVED_FRAMES = 1
"""How far from its time a token may be moved, in coarser frames."""


def keep_apart(path: Tensor, positions: Tensor, scale: int, lens: Tensor, target_lens: Tensor, blank_id: int) -> Tensor:
    """Give every token of a best path a coarser frame of its own, with a blank one between equal tokens.

    A token's time is the middle of its frames. Tokens move as little as possible: the largest move in time is the
    least that keeps them apart (isotonic regression in the maximum norm: the midpoint of the running maximum and of
    the running minimum from behind). What time already keeps apart stays where it is; tokens that would have to move
    by more than `MOST_MOVED_FRAMES` may still meet.

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
    last = target_lens.clamp_min(1)[:, None] - 1
    cells = positions.div(scale, rounding_mode="floor").clamp_min(0).minimum(last)
    tokens = _tokens(path, blank_id)
    times = positions + positions[tokens.end]  # twice the middle
    natural = times.div(2 * scale, rounding_mode="floor").clamp_min(0).minimum(last)
    moved = _spread(times, 2 * scale, tokens, last)
    moved = moved.maximum(natural - MOST_MOVED_FRAMES).minimum(natural + MOST_MOVED_FRAMES)
    return _follow(cells, moved.clamp_min(0).minimum(last), tokens)


@dataclass(frozen=True)
class _Tokens:
    """Where the tokens of best paths begin and end; all [B, T]."""

    spoken: Tensor  # not blank
    emitted: Tensor  # first frames of tokens
    gap: Tensor  # at those, 1 where the token before is the same one, else 0; int64
    start: Tensor  # index of the first frame of the token of now, or of the last one before; -1 before the first
    end: Tensor  # at spoken frames, index of the last frame of the token
    before: Tensor  # index of the last spoken frame up to now; -1 before the first
    following: Tensor  # index of the first frame of the next token; T after the last


def _tokens(path: Tensor, blank_id: int) -> _Tokens:
    size = path.shape[1]
    index = torch.arange(size, device=path.device).expand_as(path)
    spoken = path != blank_id
    emitted = first_emissions(path, torch.full_like(path[:, :1], blank_id), blank_id)
    lasting = torch.cat([(spoken & ~emitted)[:, 1:], torch.zeros_like(spoken[:, :1])], 1)  # goes on in the next frame
    before = index.masked_fill(~spoken, -1).cummax(1).values
    earlier = torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1)
    repeated = emitted & (earlier >= 0) & (path == path.gather(1, earlier.clamp_min(0)))
    begun = _cummin_from_behind(index.masked_fill(~emitted, size))
    return _Tokens(
        spoken=spoken,
        emitted=emitted,
        gap=repeated.long(),
        start=index.masked_fill(~emitted, -1).cummax(1).values,
        end=_cummin_from_behind(index.masked_fill(~spoken | lasting, size)).clamp_max(size - 1),
        before=before,
        following=torch.cat([begun[:, 1:], torch.full_like(begun[:, :1], size)], 1),
    )


def _spread(times: Tensor, scale: int, tokens: _Tokens, last: Tensor) -> Tensor:
    """The coarser frame of each token, at its first frame, [B, T]; other entries mean nothing."""
    needed = torch.where(tokens.emitted, 1 + tokens.gap, 0).cumsum(1)
    needed = needed - needed.gather(1, tokens.emitted.int().argmax(1, keepdim=True))  # frames from the first token
    slack = times - scale * needed  # falls where tokens meet; once it never falls, they are apart
    far = torch.iinfo(slack.dtype).max // 4
    highest = slack.masked_fill(~tokens.emitted, -far).cummax(1).values
    lowest = _cummin_from_behind(slack.masked_fill(~tokens.emitted, far))
    middle = (highest + lowest).div(2 * scale, rounding_mode="floor")
    room = (last - needed.amax(1, keepdim=True)).clamp_min(0)
    return middle.clamp_min(0).minimum(room) + needed


def _follow(cells: Tensor, moved: Tensor, tokens: _Tokens) -> Tensor:
    """The coarser frame of every frame, [B, T]: by time, but for those around tokens that meet or have moved."""
    free = _free(cells, moved, tokens)
    start, following = tokens.start.clamp_min(0), tokens.following.clamp_max(cells.shape[1] - 1)
    bound = (tokens.following < cells.shape[1]) & ~free.gather(1, following)  # by the token that comes next
    upcoming, gap = moved.gather(1, following), tokens.gap.gather(1, following)
    # A token's frames begin at its own place, and end before that of the next, or of the blank frame before it.
    own = moved.gather(1, start)
    first = torch.where(free.gather(1, start), cells, own)
    said = cells.maximum(first)
    said = torch.where(bound, said.minimum((upcoming - 1 - gap).maximum(own)), said)
    # Blanks lie between; of equal tokens they are the blank frame.
    begin = torch.where(tokens.before < 0, 0, said.gather(1, tokens.before.clamp_min(0)) + gap)
    silent = torch.where(bound, cells.maximum(begin).minimum(upcoming - gap), cells)
    return torch.where(tokens.spoken, said, silent).clamp_min(0).cummax(1).values


def _free(cells: Tensor, moved: Tensor, tokens: _Tokens) -> Tensor:
    """At first frames: whether time alone keeps the token apart from the one before it, neither having moved."""
    stays = (cells <= moved) & (moved <= cells.gather(1, tokens.end))
    earlier = torch.cat([torch.full_like(tokens.before[:, :1], -1), tokens.before[:, :-1]], 1)
    alone = earlier < 0
    earlier = earlier.clamp_min(0)
    apart = cells > cells.gather(1, earlier) + tokens.gap
    return stays & (alone | (apart & stays.gather(1, tokens.start.gather(1, earlier).clamp_min(0))))


def _cummin_from_behind(values: Tensor) -> Tensor:
    return values.flip(1).cummin(1).values.flip(1)
