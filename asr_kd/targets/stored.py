"""Targets that were found in a store and are read later, those of a batch at once.

An utterance's bits are so few that reading it alone is mostly the calls. Knows no files.

Shapes: T frames, K most entries of a frame.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from asr_kd.errors import TargetsError
from asr_kd.targets.packing import Codec, StoredTargets
from asr_kd.targets.streams import Coded, decode


class Stored(NamedTuple):
    """Where an utterance's targets are, and what is expected of them."""

    utterance_id: str
    coded: Coded
    codec: Codec  # the same for all that are read together
    path: Path  # named in errors
    variant: str = ""  # named in errors
    num_frames: int | None = None  # how many they must be; None: any number

    def read(self) -> StoredTargets:
        """The targets, alone.

        Raises:
            TargetsError: see `read_together`.
        """
        return read_together([self])[0]


def read_together(items: Sequence[Stored]) -> list[StoredTargets]:
    """The targets of each utterance, of at least one. K is the most entries of a frame, whoever was read beside it.

    Raises:
        TargetsError: bits that are no targets, or another number of frames than expected (nothing is cropped).
    """
    try:
        packed, lens = decode(items[0].codec, [item.coded for item in items])
    except ValueError as error:
        if len(items) > 1:
            for item in items:  # one by one, to name the damaged one
                read_together([item])
        item = items[0]
        raise TargetsError(f"targets of {item.utterance_id!r} are damaged: {error}", where=item.path) from error
    for item, num_frames in zip(items, lens.tolist(), strict=True):
        if item.num_frames is not None and item.num_frames != num_frames:
            raise TargetsError(
                f"utterance {item.utterance_id!r} ({item.variant}) has {num_frames} frames of targets, "
                f"its student {item.num_frames}",
                expected="the same audio at the same frame shift",
                where=item.path,
                remedy="The audio has changed since extraction, or the frame rates differ. Extract again into an "
                "empty folder (`asr-kd extract … --force`)",
            )
    tokens, probs = (part.split(lens.tolist()) for part in items[0].codec.unpack(packed))
    return [_narrowed(*parts) for parts in zip(tokens, probs, strict=True)]


def _narrowed(tokens: Tensor, probs: Tensor) -> StoredTargets:
    """Without the columns that are filler in all frames; one stays. In memory of their own, so they can be kept."""
    width = max(1, int((probs > 0).sum(-1).amax())) if len(probs) else 1
    return StoredTargets(tokens[:, :width].clone(), probs[:, :width].clone())
