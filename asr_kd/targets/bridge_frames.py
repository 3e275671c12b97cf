"""Posteriors from one grid of frames to another, by the time of the frames' centres: probability and spikes conserved.

Coarser: a frame of the target merges the source's frames whose centres lie in its cell. Finer: it repeats the frame
whose cell it lies in, which CTC collapses again. Knows no teacher and of the vocabulary only the blank.

Shapes: B utterances, T frames of the source, T' of the target, K frames of the source in one of the target,
V vocabulary.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from asr_kd.errors import TargetsError
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.grid import FrameGrid
from asr_kd.posteriors.measures import frame_mask
from asr_kd.targets.bridge_spikes import keep_apart

Strategy = Literal["spikes_apart", "blank_aware", "max_nonblank", "mean"]
"""How several frames become one; see `MERGES`. `spikes_apart` merges as `blank_aware` does, after tokens that would
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
        source, target: where frames lie.
        target_lens: how many frames the target has of each utterance, [B] int64.
        blank_id: CTC's blank.
        strategy: how several frames become one.

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
    normalised = DensePosteriors(log_probs, lens)
    index, valid = _members(_cells(normalised, source, target, target_lens, blank_id, strategy), num_frames)
    empty = ~valid[..., 0]  # no centre lies in the cell: the frame around the cell's own centre is repeated
    index[..., 0] = torch.where(empty, nearest, index[..., 0])
    frames = log_probs[torch.arange(len(lens), device=lens.device)[:, None, None], index]  # [B, T', K, V]
    several = valid.sum(-1, keepdim=True) > 1
    merged = torch.where(several, MERGES[strategy](frames, valid, blank_id), frames[:, :, 0])
    silent = ~inside | (uncovered & empty)
    return DensePosteriors(torch.where(silent.unsqueeze(-1), _certain_blank(merged, blank_id), merged), target_lens)


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


def _cells(
    posteriors: DensePosteriors,
    source: FrameGrid,
    target: FrameGrid,
    target_lens: Tensor,
    blank_id: int,
    strategy: Strategy,
) -> Tensor:
    """The target's frame for each of the source's, never falling, [B, T]; padding lies beyond all frames."""
    log_probs, lens = posteriors
    positions, scale = target.positions_of(source, log_probs.shape[1], log_probs.device)
    cells = positions.div(scale, rounding_mode="floor").clamp_min(0).minimum(target_lens.clamp_min(1)[:, None] - 1)
    if strategy == "spikes_apart":
        cells = keep_apart(log_probs.argmax(-1), positions, scale, lens, target_lens, blank_id)
    return cells.masked_fill(~frame_mask(lens, cells.shape[1]), torch.iinfo(cells.dtype).max)


def _members(cells: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """The source's frames in each of the target's: their indices, and which of those count, [B, T', K] both."""
    edges = torch.arange(num_frames + 1, device=cells.device).repeat(len(cells), 1)
    first = torch.searchsorted(cells.contiguous(), edges)  # [B, T' + 1]
    counts = first.diff(dim=1)
    each = torch.arange(max(int(counts.max()), 1), device=cells.device)
    index = (first[:, :-1, None] + each).clamp_max(cells.shape[1] - 1)
    return index, each < counts.unsqueeze(-1)


def _check_spans(uncovered: Tensor, source: FrameGrid, target: FrameGrid, lens: Tensor, target_lens: Tensor) -> None:
    """Refuse what no rounding of lengths explains."""
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


def _certain_blank(like: Tensor, blank_id: int) -> Tensor:
    """Log-probabilities of a frame that can only be blank, [V]."""
    row = torch.full_like(like[0, 0], -torch.inf)
    row[blank_id] = 0.0
    return row


def _mean(frames: Tensor, valid: Tensor, blank_id: int) -> Tensor:
    """The mean of the probabilities: a spike that fills one of two frames is halved."""
    return frames.masked_fill(~valid.unsqueeze(-1), -torch.inf).logsumexp(2) - valid.sum(-1, keepdim=True).log()


def _max_nonblank(frames: Tensor, valid: Tensor, blank_id: int) -> Tensor:
    """The one frame that holds the largest probability of any token but the blank."""
    blank = torch.arange(frames.shape[-1], device=frames.device) == blank_id
    loudest = frames.masked_fill(blank | ~valid.unsqueeze(-1), -torch.inf).amax(-1).argmax(-1)
    return frames.take_along_dim(loudest[..., None, None], dim=2).squeeze(2)


def _blank_aware(frames: Tensor, valid: Tensor, blank_id: int) -> Tensor:
    """Blank only if every frame is, frames being independent as in CTC; tokens share the rest by their sums."""
    blank = frames[..., blank_id].masked_fill(~valid, 0.0).sum(-1, keepdim=True)  # log of the product
    tokens = frames.masked_fill(~valid.unsqueeze(-1), -torch.inf).logsumexp(2)
    tokens[..., blank_id] = -torch.inf
    spoken = (-torch.expm1(blank)).log() + tokens.log_softmax(-1)
    spoken = torch.where(blank < 0, spoken, -torch.inf)  # certain blanks leave nothing to share
    spoken[..., blank_id] = blank.squeeze(-1)
    return spoken.log_softmax(-1)  # what rounding left


MERGES: dict[Strategy, Callable[[Tensor, Tensor, int], Tensor]] = {
    "spikes_apart": _blank_aware,
    "blank_aware": _blank_aware,
    "max_nonblank": _max_nonblank,
    "mean": _mean,
}
"""Frames [B, T', K, V], which of them count [B, T', K], the blank → [B, T', V]."""
