"""Frame posteriors: `types`, with the times of frames; divergences, occupancy and other `measures`."""

from asr_kd.posteriors.types import DensePosteriors, SoftTargets, keep_nucleus

__all__ = ["DensePosteriors", "SoftTargets", "keep_nucleus"]
