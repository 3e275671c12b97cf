"""Where the frames of whole utterances stand while the layers run: in their order, or in blocks of a chunk and its
right context.

With right context (Shi et al. 2021, "Emformer") a stream computes a chunk together with the R frames after it, drops
what it computed for these, and computes them again with the next chunk. Over whole utterances a block of C + R frames
stands for each chunk, so that masked attention gives what the stream gives.

Shapes: B utterances, T' encoder frames, D width, C chunk frames, L left-context frames, R right-context frames, N
blocks, P places: T', or N · (C + R).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_kd.models.layers import Table
from asr_kd.models.settings import Context


class Layout:
    """Frames in their order.

    Args:
        lens: frames of each utterance, [B] int64.
        frames: T'.
        context: what a frame may see; None: all frames.
        offsets: [B] or [1] int64, frames by which the first chunk of each utterance is shorter.

    Attributes:
        valid: [B, P], false on padding.
        allowed: [B or 1, P, P], true where the frame of a row may look at that of a column, padding aside.
    """

    def __init__(self, lens: Tensor, frames: int, context: Context | None, offsets: Tensor) -> None:
        self.valid = torch.arange(frames, device=lens.device) < lens.unsqueeze(1)
        self.allowed = visible_frames(frames, context, offsets)

    @property
    def positions(self) -> int:
        """Positions that `table` is to have."""
        return self.valid.shape[1]

    def table(self, table: Table) -> Table:
        """Rows of positions → rows of places."""
        return table

    def spread(self, hidden: Tensor) -> Tensor:
        """[B, T', D] → [B, P, D]."""
        return hidden

    def gather(self, hidden: Tensor) -> Tensor:
        """[B, P, D] → [B, T', D]: of each frame what was computed in its own chunk."""
        return hidden

    def with_past(self, hidden: Tensor, past: int, future: int = 0) -> Tensor:
        """[B, P, D] → input of a convolution, [B, past + P + future, D]; zeros for padding and outside the utterance.

        With blocks [B · N, past + C + R, D].
        """
        return F.pad(hidden * self._kept(hidden), (0, 0, past, future))

    def joined(self, mixed: Tensor) -> Tensor:
        """The convolution's output, [B, P, D] or [B · N, C + R, D] → [B, P, D]."""
        return mixed

    def _kept(self, hidden: Tensor) -> Tensor:
        return self.valid.unsqueeze(-1).to(hidden.dtype)


class Blocks(Layout):
    """Chunks with right context, one block after another; a frame stands in its chunk, and in R-frame tails before."""

    def __init__(self, lens: Tensor, frames: int, context: Context, offsets: Tensor) -> None:
        chunk, left, right = context
        self._chunk, self._size = chunk, chunk + right
        self._count = -(-(frames + int(offsets.max())) // chunk)
        place = torch.arange(self._count * self._size, device=lens.device)
        block, within = place // self._size, place % self._size
        self._position = block * chunk + within  # of each place, [P]; counted from the start of a full first chunk
        frame = self._position - offsets.unsqueeze(1)  # [B or 1, P]
        self.valid = (frame >= 0) & (frame < lens.unsqueeze(1))
        rows = block.unsqueeze(1)
        earlier = (block < rows) & (within < chunk) & (rows * chunk - self._position <= left)
        self.allowed = ((block == rows) | earlier).unsqueeze(0)
        self._source = frame.clamp(0, frames - 1).unsqueeze(-1)
        positions = torch.arange(frames, device=lens.device) + offsets.unsqueeze(1)
        self._home = (positions // chunk * self._size + positions % chunk).unsqueeze(-1)  # [B or 1, T', 1]

    @property
    def positions(self) -> int:
        return self._count * self._chunk + self._size

    def table(self, table: Table) -> Table:
        return None if table is None else (table[0][self._position], table[1][self._position])

    def spread(self, hidden: Tensor) -> Tensor:
        return torch.take_along_dim(hidden, self._source, 1)

    def gather(self, hidden: Tensor) -> Tensor:
        return torch.take_along_dim(hidden, self._home, 1)

    def with_past(self, hidden: Tensor, past: int, future: int = 0) -> Tensor:
        if future:
            raise ValueError("convolutions of a streaming model are causal")
        blocks = (hidden * self._kept(hidden)).unflatten(1, (self._count, self._size))
        chunks = F.pad(blocks[:, :, : self._chunk].flatten(1, 2), (0, 0, past, 0))
        if past:
            before = chunks.unfold(1, past, self._chunk)[:, : self._count]  # [B, N, D, past]
            blocks = torch.cat([before.transpose(2, 3), blocks], dim=2)
        return blocks.flatten(0, 1)

    def joined(self, mixed: Tensor) -> Tensor:
        return mixed.unflatten(0, (-1, self._count)).flatten(1, 2)


def layout_of(lens: Tensor, frames: int, context: Context | None, offsets: Tensor) -> Layout:
    """The layout that a context needs; arguments as of `Layout`."""
    if context is None or context.right_context_frames == 0:
        return Layout(lens, frames, context, offsets)
    return Blocks(lens, frames, context, offsets)


def visible_frames(frames: int, context: Context | None, offsets: Tensor) -> Tensor:
    """[B, T', T'] true where frame (row) may look at frame (column), without right context.

    Args:
        frames: T'.
        context: None: all frames.
        offsets: [B] int64, frames by which the first chunk of each utterance is shorter.
    """
    if context is None:
        return torch.ones(len(offsets), frames, frames, dtype=torch.bool, device=offsets.device)
    index = torch.arange(frames, device=offsets.device)
    late = offsets.unsqueeze(1)
    start = ((index + late) // context.chunk_frames * context.chunk_frames - late).unsqueeze(2)  # of a row's chunk
    return (index < start + context.chunk_frames) & (index >= start - context.left_context_frames)
