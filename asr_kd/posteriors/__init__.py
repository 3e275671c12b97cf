"""Frame posteriors: `types`, divergences and other `measures`, CTC `occupancy`, and the time `grid` of frames."""

from asr_kd.posteriors.types import DensePosteriors, SoftTargets, SparsePosteriors, keep_nucleus

__all__ = ["DensePosteriors", "SoftTargets", "SparsePosteriors", "keep_nucleus"]
