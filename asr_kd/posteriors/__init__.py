"""Frame posteriors: `types`, divergences, occupancy and other `measures`, times of frames (`grid`)."""

from asr_kd.posteriors.types import DensePosteriors, SoftTargets, keep_nucleus

__all__ = ["DensePosteriors", "SoftTargets", "keep_nucleus"]
