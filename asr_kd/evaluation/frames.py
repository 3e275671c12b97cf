"""How alike student and teacher are, frame by frame, at the delay that suits the student best.

Knows tensors only.

Shapes: T frames, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.posteriors.measures import dense_kl

MOST_SHIFT_FRAMES = 15
"""Delays that are tried: up to 600 ms."""


@dataclass
class _Sums:
    """What one shift adds up to, over all utterances."""

    frames: int = 0
    spoken: int = 0
    divergence: float = 0.0
    agreed: int = 0
    agreed_spoken: int = 0

    def add(self, teacher: Tensor, student: Tensor, blank_id: int) -> None:
        best = teacher.argmax(-1)
        agreed, spoken = best == student.argmax(-1), best != blank_id
        self.frames += len(best)
        self.spoken += int(spoken.sum())
        self.divergence += float(dense_kl(teacher, student).sum())
        self.agreed += int(agreed.sum())
        self.agreed_spoken += int((agreed & spoken).sum())

    def plain(self) -> dict[str, float | None]:
        return {
            "frame_kl": _rate(self.divergence, self.frames),
            "argmax_agreement": _rate(self.agreed, self.frames),
            "spoken_agreement": _rate(self.agreed_spoken, self.spoken),
        }


def frame_agreement(pairs: Iterable[tuple[Tensor, Tensor]], blank_id: int) -> dict[str, Any]:
    """KL(teacher ‖ student) a frame in nats and shares of frames with the same likeliest token, as plain data.

    `spoken_agreement` counts only frames whose likeliest token by the teacher is not blank: most frames of CTC are, and
    they agree easily. A student that speaks later is compared at every shift d up to 15 frames, the teacher's
    frame t with the student's t + d, over the frames that both have; the best is that of the lowest KL.

    Args:
        pairs: log-probabilities of teacher [T, V] and student [T', V] on one grid; lengths may differ.
        blank_id: the CTC blank.

    Returns:
        `frames`, and `frame_kl`, `argmax_agreement`, `spoken_agreement` at no shift; the same three as `at_best_shift`
        with `shift_frames` and `shift_ms`. Rates over no frame are None.
    """
    sums = [_Sums() for _ in range(MOST_SHIFT_FRAMES + 1)]
    for teacher, student in pairs:
        for shift, total in enumerate(sums):
            frames = min(len(teacher), len(student) - shift)
            if frames > 0:
                total.add(teacher[:frames], student[shift : shift + frames], blank_id)
    found = [total.plain() for total in sums]
    best = min(range(len(sums)), key=lambda shift: _or_infinite(found[shift]["frame_kl"]))
    at_best = {"shift_frames": best, "shift_ms": best * FRAME_SHIFT_MS, **found[best]}
    return {"frames": sums[0].frames, **found[0], "at_best_shift": at_best}


def _rate(total: float, count: int) -> float | None:
    return total / count if count else None


def _or_infinite(value: float | None) -> float:
    return torch.inf if value is None else value
