"""Conversion of posteriors to another grid of frames, by the times of the frames' centres.

Coarser: a frame of the target merges the source's frames whose centres are in its cell; tokens that would meet in one
frame move to neighbouring frames (`keep_apart`). Finer: it repeats the frame in whose cell it is; CTC collapses those.

Shapes: B utterances, T frames of the source, T' of the target, K frames of the source in one of the target,
V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from asr_kd.errors import TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.measures import frame_mask
from asr_kd.posteriors.types import FrameGrid

MOST_MOVED_FRAMES = 1
"""Largest distance by which a token may be moved, in coarser frames."""


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
    """First and last frames of the tokens of best paths; all [B, T]."""

    nonblank: Tensor  # frames whose best token is not blank
    emitted: Tensor  # first frames of tokens
    gap: Tensor  # at those, 1 where the token before is the same one, else 0; int64
    start: Tensor  # index of the first frame of the token of now, or of the last one before; -1 before the first
    end: Tensor  # at nonblank frames, index of the last frame of the token
    before: Tensor  # index of the last nonblank frame up to now; -1 before the first
    following: Tensor  # index of the first frame of the next token; T after the last


def _tokens(path: Tensor, blank_id: int) -> _Tokens:
    size = path.shape[1]
    index = torch.arange(size, device=path.device).expand_as(path)
    nonblank = path != blank_id
    emitted = nonblank & (path != torch.cat([torch.full_like(path[:, :1], blank_id), path[:, :-1]], 1))
    lasting = torch.cat([(nonblank & ~emitted)[:, 1:], torch.zeros_like(nonblank[:, :1])], 1)  # of a token
    before = index.masked_fill(~nonblank, -1).cummax(1).values
    earlier = torch.cat([torch.full_like(before[:, :1], -1), before[:, :-1]], 1)
    repeated = emitted & (earlier >= 0) & (path == path.gather(1, earlier.clamp_min(0)))
    begun = _cummin_from_behind(index.masked_fill(~emitted, size))
    return _Tokens(
        nonblank=nonblank,
        emitted=emitted,
        gap=repeated.long(),
        start=index.masked_fill(~emitted, -1).cummax(1).values,
        end=_cummin_from_behind(index.masked_fill(~nonblank | lasting, size)).clamp_max(size - 1),
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
    token_cells = cells.maximum(first)
    token_cells = torch.where(bound, token_cells.minimum((upcoming - 1 - gap).maximum(own)), token_cells)
    # Blanks lie between; of equal tokens they are the blank frame.
    begin = torch.where(tokens.before < 0, 0, token_cells.gather(1, tokens.before.clamp_min(0)) + gap)
    blank_cells = torch.where(bound, cells.maximum(begin).minimum(upcoming - gap), cells)
    return torch.where(tokens.nonblank, token_cells, blank_cells).clamp_min(0).cummax(1).values


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


Strategy = Literal["spikes_apart", "blank_aware", "max_nonblank", "mean"]
"""Merge of several frames into one; see `MERGES`. `spikes_apart` merges as `blank_aware` does, after tokens that would
meet in one frame have been moved apart (`bridge_spikes`)."""

MOST_MISSING_FRAMES = 1
"""Frames that the target may have beyond the source at either end: they are filled with blank."""


def resample(
    posteriors: DensePosteriors,
    source: FrameGrid,
    target: FrameGrid,
    target_lens: Tensor,
    blank_id: int,
    strategy: Strategy,
) -> DensePosteriors:
    """Posteriors of the same audio on another grid.

    The source's frames before the target's first cell or after its last one go into that cell: nothing is cropped.
    A frame of the target outside the source's cells is blank. An utterance that has no frame on one side has none
    afterwards.

    Args:
        posteriors: [B, T, V] on `source`.
        target_lens: how many frames the target has of each utterance, [B] int64.

    Returns:
        [B, T', V] float32, each frame summing to 1, certain blanks beyond an utterance's length; and lengths [B].

    Raises:
        TargetsError: the two do not span the same audio: more than a frame apart at either end.
    """
    log_probs = posteriors.log_probs.float().log_softmax(-1)
    lens = posteriors.lens.to(log_probs.device)
    target_lens = target_lens.to(log_probs.device).masked_fill(lens == 0, 0)
    num_frames = int(target_lens.max()) if len(target_lens) else 0
    if num_frames == 0:
        return DensePosteriors(log_probs[:, :0], target_lens)
    nearest, uncovered = _nearest(source, target, lens, num_frames)
    inside = frame_mask(target_lens, num_frames)
    _check_spans(uncovered & inside, source, target, lens, target_lens)
    positions, scale = target.positions_of(source, log_probs.shape[1], log_probs.device)
    if strategy == "spikes_apart":
        cells = keep_apart(log_probs.argmax(-1), positions, scale, lens, target_lens, blank_id)
    else:
        cells = positions.div(scale, rounding_mode="floor").clamp_min(0).minimum(target_lens.clamp_min(1)[:, None] - 1)
    beyond = torch.iinfo(cells.dtype).max  # padding lies beyond all frames
    index, valid = _members(cells.masked_fill(~frame_mask(lens, log_probs.shape[1]), beyond), num_frames)
    empty = ~valid[..., 0]  # no centre lies in the cell: the frame around the cell's own centre is repeated
    index[..., 0] = torch.where(empty, nearest, index[..., 0])
    frames = log_probs[torch.arange(len(lens), device=lens.device)[:, None, None], index]  # [B, T', K, V]
    several = valid.sum(-1, keepdim=True) > 1
    merged = torch.where(several, MERGES[strategy](frames, valid, blank_id), frames[:, :, 0])
    certain = torch.full_like(merged[0, 0], -torch.inf)  # a frame that can only be blank, [V]
    certain[blank_id] = 0.0
    blank = ~inside | (uncovered & empty)
    return DensePosteriors(torch.where(blank.unsqueeze(-1), certain, merged), target_lens)


def _nearest(source: FrameGrid, target: FrameGrid, lens: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """For each of the target's frames the source's around its centre, and whether there is none at all, [B, T'].

    There is none where the centre lies outside the source's cells and no centre of the source's lies in the cell.
    """
    around = source.cells_of(target, num_frames, lens.device)
    own = target.cells_of(source, max(int(lens.max()), 1), lens.device)
    index = torch.arange(num_frames, device=lens.device)
    before = (around < 0) & (index < own[0])
    after = (around >= lens[:, None]) & (index > own[lens.clamp_min(1) - 1][:, None])
    return around.clamp_min(0).minimum(lens.clamp_min(1)[:, None] - 1), before | after


def _members(cells: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """The source's frames in each of the target's: their indices, and which of those count, [B, T', K] both."""
    edges = torch.arange(num_frames + 1, device=cells.device).repeat(len(cells), 1)
    first = torch.searchsorted(cells.contiguous(), edges)  # [B, T' + 1]
    counts = first.diff(dim=1)
    each = torch.arange(max(int(counts.max()), 1), device=cells.device)
    index = (first[:, :-1, None] + each).clamp_max(cells.shape[1] - 1)
    return index, each < counts.unsqueeze(-1)


def _check_spans(uncovered: Tensor, source: FrameGrid, target: FrameGrid, lens: Tensor, target_lens: Tensor) -> None:
    """Raise an error where rounding of lengths cannot explain the difference."""
    at_begin = uncovered.int().cumprod(1).sum(1)
    missing = torch.maximum(at_begin, uncovered.sum(1) - at_begin) > MOST_MISSING_FRAMES
    # Convolutions without padding end up to 50 ms before the audio, a padded model's last frame may lie behind it.
    most_ms = target.shift_ms + max(source.shift_ms, target.shift_ms)
    before_ms = target.offset_ms - target.shift_ms / 2 - source.offset_ms
    after_ms = source.offset_ms + (lens - 1) * source.shift_ms
    after_ms = after_ms - target.offset_ms - (target_lens - 0.5) * target.shift_ms
    beyond = (after_ms > most_ms) | (before_ms > most_ms)
    wrong = (missing | beyond) & (target_lens > 0)
    if not wrong.any():
        return
    row = int(wrong.nonzero()[0])
    count, target_count = int(lens[row]), int(target_lens[row])
    raise TargetsError(
        f"the teacher's {count} frames ({source}, to {source.centre_ms(count - 1):g} ms) and the student's "
        f"{target_count} of the same audio ({target}, to {target.centre_ms(target_count - 1):g} ms) do not fit",
        expected="the same span of audio, within a frame at either end",
        remedy="Check the frame shift and offset that the teacher declares; nothing is cropped to make them fit",
    )


def _mean(frames: Tensor, valid: Tensor, blank_id: int) -> Tensor:
    """The mean of the probabilities: a spike that fills one of two frames is halved."""
    return frames.masked_fill(~valid.unsqueeze(-1), -torch.inf).logsumexp(2) - valid.sum(-1, keepdim=True).log()


def _max_nonblank(frames: Tensor, valid: Tensor, blank_id: int) -> Tensor:
    """The one frame that holds the largest probability of any token but the blank."""
    blank = torch.arange(frames.shape[-1], device=frames.device) == blank_id
    surest = frames.masked_fill(blank | ~valid.unsqueeze(-1), -torch.inf).amax(-1).argmax(-1)
    return frames.take_along_dim(surest[..., None, None], dim=2).squeeze(2)


def _blank_aware(frames: Tensor, valid: Tensor, blank_id: int) -> Tensor:
    """Blank only if every frame is, frames being independent as in CTC; tokens share the rest by their sums."""
    blank = frames[..., blank_id].masked_fill(~valid, 0.0).sum(-1, keepdim=True)  # log of the product
    tokens = frames.masked_fill(~valid.unsqueeze(-1), -torch.inf).logsumexp(2)
    tokens[..., blank_id] = -torch.inf
    shared = (-torch.expm1(blank)).log() + tokens.log_softmax(-1)
    shared = torch.where(blank < 0, shared, -torch.inf)  # certain blanks leave nothing to share
    shared[..., blank_id] = blank.squeeze(-1)
    return shared.log_softmax(-1)  # corrects rounding


MERGES: dict[Strategy, Callable[[Tensor, Tensor, int], Tensor]] = {
    "spikes_apart": _blank_aware,
    "blank_aware": _blank_aware,
    "max_nonblank": _max_nonblank,
    "mean": _mean,
}
"""Frames [B, T', K, V], which of them count [B, T', K], the blank → [B, T', V]."""
