"""Long audio in overlapping windows whose frames are put together on the teacher's own grid.

Each window contributes its frames from the middle of the overlap before it to the middle of the one after it: where a
frame has at least half an overlap of audio on either side. Windows start on the grid, so frames of neighbouring
windows lie at the same times and nothing is interpolated. What a teacher does to a whole utterance (mean and
variance of the waveform, for example) it does to each window.

Shapes: B utterances, S samples, T frames, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_kd.audio import SAMPLE_RATE
from asr_kd.errors import CheckpointError, RecipeError, is_out_of_memory
from asr_kd.files import sha256_of
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import Teacher

BATCH_SECONDS = 120.0
"""Audio of an utterance's windows that goes through the teacher at once."""


class Window(NamedTuple):
    """Samples of an utterance."""

    start: int
    stop: int


def plan_windows(num_samples: int, window: int, overlap: int, grid: int) -> list[Window]:
    """Windows that cover an utterance, as equal in length as the grid allows.

    Args:
        num_samples: of the utterance.
        window: longest window, samples; a multiple of `grid`.
        overlap: what neighbours share, exactly, samples; a multiple of `grid`.
        grid: samples from one frame to the next; every window starts on a multiple of it.

    Returns:
        One window when that is enough; the last one may be shorter than the others, but longer than the overlap.
    """
    if num_samples <= window:
        return [Window(0, num_samples)]
    count = math.ceil((num_samples - overlap) / (window - overlap))
    hop = math.ceil((num_samples - overlap) / count / grid) * grid
    return [Window(start, min(start + hop + overlap, num_samples)) for start in range(0, num_samples - overlap, hop)]


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_halves(compute: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item]) -> list[Result]:
    """Results of a batch, which is computed in halves, and these in halves, where memory does not suffice.

    Raises:
        RuntimeError, MemoryError: a single item does not fit into memory.
    """
    try:
        return compute(items)
    except (RuntimeError, MemoryError) as error:
        if len(items) < 2 or not is_out_of_memory(error):
            raise
    middle = len(items) // 2  # outside of the handler, which keeps the tensors of the failed attempt
    return [*in_halves(compute, items[:middle]), *in_halves(compute, items[middle:])]


def kept_frames(
    windows: Sequence[Window], overlap: int, grid: int, shift_ms: float, offset_ms: float
) -> list[tuple[int, int | None]]:
    """First frame that each window contributes, on its own grid, and the first that it does not; None: to its end.

    Args:
        windows, overlap, grid: see `plan_windows`.
        shift_ms, offset_ms: of frames.
    """
    # The first frame of a window whose centre lies in the second half of the overlap.
    middle = max(math.ceil((overlap / 2 / SAMPLE_RATE * 1000 - offset_ms) / shift_ms), 0)
    origins = [window.start // grid for window in windows]
    firsts = [0, *(origin + middle for origin in origins[1:])]  # on the utterance's grid
    ends = [*(first - origin for first, origin in zip(firsts[1:], origins[:-1], strict=True)), None]
    return [(first - origin, end) for first, origin, end in zip(firsts, origins, ends, strict=True)]


class WindowedTeacher:
    """A teacher applied to long audio in windows that share `overlap_seconds`; see `teachers.base.Teacher`.

    Identity and features include the windows, because posteriors of long audio depend on them.

    Raises:
        RecipeError: either is not a multiple of the teacher's frame shift.
    """

    def __init__(self, teacher: Teacher, window_seconds: float, overlap_seconds: float) -> None:
        self.teacher = teacher
        self.name, self.vocabulary = teacher.name, teacher.vocabulary
        self.frame_shift_ms, self.frame_offset_ms = teacher.frame_shift_ms, teacher.frame_offset_ms
        self._grid = round(teacher.frame_shift_ms * SAMPLE_RATE / 1000)
        self._window = self._on_grid(window_seconds, "window_seconds")
        self._overlap = self._on_grid(overlap_seconds, "overlap_seconds")

    def _on_grid(self, seconds: float, key: str) -> int:
        samples = round(seconds * SAMPLE_RATE)
        if samples % self._grid or abs(self._grid * 1000 / SAMPLE_RATE - self.teacher.frame_shift_ms) > 1e-9:
            shift = self.teacher.frame_shift_ms
            near = round(seconds * 1000 / shift) * shift / 1000
            raise RecipeError(
                f"{key} is {seconds:g}",
                where=self.teacher.name,
                expected=f"a multiple of the teacher's frame shift of {shift:g} ms, {near:g} for example",
            )
        return samples

    @property
    def sha256(self) -> str:
        return sha256_of({"teacher": self.teacher.sha256, "window": self._window, "overlap": self._overlap})

    @property
    def features(self) -> Mapping[str, Any]:
        return {**self.teacher.features, "window_samples": self._window, "overlap_samples": self._overlap}

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        long = (sample_lens > self._window).nonzero().flatten().tolist()
        if not long:
            return self.teacher.log_probs(waveforms, sample_lens)
        rows: dict[int, Tensor] = {row: self._stitched(waveforms[row, : int(sample_lens[row])]) for row in long}
        short = [row for row in range(len(sample_lens)) if row not in rows]
        if short:
            longest = int(sample_lens[short].max())
            dense = self.teacher.log_probs(waveforms[short, :longest], sample_lens[short])
            rows |= {row: dense.log_probs[index, : dense.lens[index]] for index, row in enumerate(short)}
        ordered = [rows[row] for row in range(len(rows))]
        lens = torch.tensor([len(row) for row in ordered], device=ordered[0].device)
        return DensePosteriors(pad_sequence(ordered, batch_first=True), lens)

    def _stitched(self, waveform: Tensor) -> Tensor:
        """Log-probabilities [T, V] of one long waveform [S]."""
        windows = plan_windows(waveform.shape[0], self._window, self._overlap, self._grid)
        kept = kept_frames(windows, self._overlap, self._grid, self.frame_shift_ms, self.frame_offset_ms)
        pieces: list[Tensor] = []
        for window, frames, (first, end) in zip(windows, self._compute_windows(waveform, windows), kept, strict=True):
            last = len(frames) if end is None else end
            if not first <= last <= len(frames):
                raise CheckpointError(
                    f"gives {len(frames)} frames of a window of {window.stop - window.start} samples",
                    where=self.name,
                    expected=f"at least {max(last, first)}",
                    remedy="Use a longer overlap_seconds: its frames need audio on both sides",
                )
            pieces.append(frames[first:last])
        return torch.cat(pieces)

    def _compute_windows(self, waveform: Tensor, windows: list[Window]) -> list[Tensor]:
        """The teacher's frames [T, V] of each window."""
        at_once = max(1, int(BATCH_SECONDS * SAMPLE_RATE // (windows[0].stop - windows[0].start)))

        def compute(some: Sequence[Window]) -> list[Tensor]:
            cuts = [waveform[window.start : window.stop] for window in some]
            lens = torch.tensor([len(cut) for cut in cuts])
            dense = self.teacher.log_probs(pad_sequence(cuts, batch_first=True), lens)
            return [frames[:count] for frames, count in zip(dense.log_probs, dense.lens.tolist(), strict=True)]

        computed: list[Tensor] = []
        for begin in range(0, len(windows), at_once):
            computed += in_halves(compute, windows[begin : begin + at_once])
        return computed
