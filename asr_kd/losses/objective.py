"""The weighted sum of objectives.

L = ((1 − λ)·CTC + λ·Σ_i w_i·D_i) / frames. Every term is summed over the batch and divided by the same number, the
global batch's student frames, so that λ means the same for any batch. Knows tensors only.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr_kd.errors import TrainingError
from asr_kd.losses.base import Pass, Shape, StudentOutput, Supervision, Term
from asr_kd.losses.ctc import Ctc
from asr_kd.losses.settings import DistillSettings


class LossTerms(NamedTuple):
    """What one batch costs."""

    total: Tensor  # scalar float32, divided by the frames; the gradient goes through this one
    parts: dict[str, Tensor]  # unweighted terms by name, divided by the frames, detached: for curves


class Objective(nn.Module):
    """Σ_i w_i · term_i / frames.

    Args:
        terms: objectives by the name their curves get.
        weights: w by the same names; all above 0.
        inner: names of the terms that the heads of inner layers learn from; None: all that mean something there.
    """

    def __init__(
        self, terms: Mapping[str, Term], weights: Mapping[str, float], inner: frozenset[str] | None = None
    ) -> None:
        super().__init__()
        if not terms or terms.keys() != weights.keys():
            raise ValueError(
                f"terms {sorted(terms)} and weights {sorted(weights)} must have the same names, at least one"
            )
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.inner = [name for name, term in terms.items() if term.on_inner_heads and (inner is None or name in inner)]
        each = list(terms.values())
        self.needs_references = any(term.needs_references for term in each)
        self.needs_targets = any(term.needs_targets for term in each)
        self.needs_hypotheses = any(term.needs_hypotheses for term in each)
        self.needs_layers = tuple(sorted({layer for term in each for layer in term.needs_layers}))
        self.needs_teacher_layers = tuple(sorted({layer for term in each for layer in term.needs_teacher_layers}))
        self.needs_arrays = tuple(sorted({name for term in each for name in term.needs_arrays}))
        self.needs_passes: tuple[Pass, ...] = tuple(sorted({name for term in each for name in term.needs_passes}))
        self.delay_frames = max(term.delay_frames for term in each)

    @classmethod
    def from_settings(cls, settings: DistillSettings | None, shape: Shape) -> "Objective":
        """CTC, alone or with what the teacher teaches; a term of weight 0 is left out, and what it needs with it.

        Args:
            settings: None is labels alone.
            shape: of the models.

        Raises:
            TrainingError: the models cannot learn by one of the objectives.
        """
        settings = settings or DistillSettings(kd_weight=0.0)
        terms: dict[str, Term] = {}
        weights: dict[str, float] = {}
        if settings.kd_weight < 1.0:
            terms["ctc"], weights["ctc"] = Ctc(shape.blank_id), 1.0 - settings.kd_weight
        for name, chosen in settings.terms.items():
            misfit = chosen.misfit(shape)
            if misfit is not None:
                raise TrainingError(f"{name}: {misfit}")
            terms[name], weights[name] = chosen.build(shape), settings.kd_weight * chosen.weight
        inner = {"both": None, "labels": frozenset({"ctc"}), "teacher": frozenset(settings.terms)}
        return cls(terms, weights, inner[settings.inner_heads])

    def forward(self, student: StudentOutput, supervision: Supervision, num_frames: int | Tensor) -> LossTerms:
        """The weighted sum for one batch.

        Args:
            student: what it makes of the batch.
            supervision: what there is to learn; see `Supervision`.
            num_frames: student frames of the *global* batch: over accumulation and processes.

        Raises:
            TrainingError: something that a term needs is missing, or does not fit the student.
        """
        self._check_complete(supervision)
        parts = {name: term(student, supervision) / num_frames for name, term in self.terms.items()}
        return LossTerms(self._sum(parts), {name: part.detach() for name, part in parts.items()})

    def of_inner_head(self, student: StudentOutput, supervision: Supervision, num_frames: int | Tensor) -> Tensor:
        """The weighted sum of what an inner layer's head learns from; a scalar, 0 when that is nothing."""
        if not self.inner:
            return student.log_probs.new_zeros(())
        return self._sum({name: self.terms[name](student, supervision) / num_frames for name in self.inner})

    def _sum(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()

    def _check_complete(self, supervision: Supervision) -> None:
        if self.needs_references and supervision.references is None:
            raise TrainingError(
                "the batch has no transcripts", expected="transcripts", remedy="Only kd_weight: 1 goes without"
            )
        if self.needs_targets and supervision.targets is None:
            raise TrainingError(
                "the batch has no soft targets",
                expected="soft targets",
                remedy="Run `asr-kd extract`, or set kd_weight: 0",
            )
        if self.needs_hypotheses and supervision.hypotheses is None:
            raise TrainingError(
                "the batch has no hypotheses of a teacher",
                expected="hypotheses",
                remedy="Run `asr-kd extract` or `asr-kd targets import`, or set level: frame",
            )
