"""Frame posteriors, dense and sparse: what every other room passes around.

Knows tensors only: nothing of models, files or losses.
"""

from asr_kd.posteriors.types import DensePosteriors, SoftTargets, SparsePosteriors, keep_nucleus

__all__ = ["DensePosteriors", "SoftTargets", "SparsePosteriors", "keep_nucleus"]
