"""Frame posteriors, dense and sparse."""

from asr_kd.posteriors.types import DensePosteriors, SoftTargets, SparsePosteriors, keep_nucleus

__all__ = ["DensePosteriors", "SoftTargets", "SparsePosteriors", "keep_nucleus"]
