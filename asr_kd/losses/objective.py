"""The weighted sum of objectives.

L = ((1 − λ)·CTC + λ·Σ_i w_i·D_i) / frames; λ is 1 for utterances without a transcript. Every term is summed over the
batch and divided by the same number, the global batch's student frames, so that λ means the same for any batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asr_kd.errors import TrainingError
from asr_kd.losses.base import Pass, Shape, StudentOutput, Supervision, Term, student_of, supervision_of
from asr_kd.losses.ctc import Ctc
from asr_kd.losses.settings import DistillSettings


class LossTerms(NamedTuple):
    """Losses of one batch."""

    total: Tensor  # scalar float32, divided by the frames; the gradient goes through this one
    parts: dict[str, Tensor]  # unweighted terms by name, divided by the frames, detached: for curves


class Objective(nn.Module):
    """Σ_i w_i · term_i / frames.

    Args:
        terms: objectives by name.
        weights: w by the same names, at the first step.
        inner: names of the terms for the heads of inner layers; None: all that apply there.
        weights_at: returns w after a share of the training, from 0 to 1; None: w is constant.
        untranscribed: w by name for utterances without a transcript; None: there are no such utterances.
    """

    def __init__(
        self,
        terms: Mapping[str, Term],
        weights: Mapping[str, float],
        inner: frozenset[str] | None = None,
        weights_at: Callable[[float], dict[str, float]] | None = None,
        untranscribed: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not terms or terms.keys() != weights.keys():
            raise ValueError(
                f"terms {sorted(terms)} and weights {sorted(weights)} must have the same names, at least one"
            )
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self._weights_at, self._untranscribed = weights_at, untranscribed or {}
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
        """Build CTC and the chosen objectives; a term of weight 0 is left out, and what it needs with it.

        Raises:
            TrainingError: an objective is incompatible with the models.
        """
        settings = settings or DistillSettings(kd_weight=0.0)
        terms: dict[str, Term] = {}
        if settings.learns_from_labels:
            terms["ctc"] = Ctc(shape.blank_id)
        for name, chosen in settings.terms.items():
            problem = chosen.incompatibility(shape)
            if problem is not None:
                raise TrainingError(f"{name}: {problem}")
            terms[name] = chosen.build(shape)
        inner = {"both": None, "labels": frozenset({"ctc"}), "teacher": frozenset(settings.terms)}
        weights_at = partial(_weights, tuple(terms), settings)
        moves = settings.kd_schedule != "constant"
        alone = {name: chosen.weight for name, chosen in settings.terms.items()}
        return cls(terms, weights_at(0.0), inner[settings.inner_heads], weights_at if moves else None, alone)

    def weigh(self, step: int, total_steps: int) -> None:
        """Set the weights of a step, counted from 0; they depend on nothing else."""
        if self._weights_at is not None:
            self.weights = self._weights_at(min(step / max(total_steps - 1, 1), 1.0))

    def forward(self, student: StudentOutput, supervision: Supervision, num_frames: int | Tensor) -> LossTerms:
        """The weighted sum for one batch.

        Args:
            student: output of this process's part of the batch.
            supervision: of the same utterances, on the same device; lengths may stay on the host.
            num_frames: student frames of the *global* batch, over all processes and pieces.

        Raises:
            TrainingError: transcripts, soft targets or hypotheses are missing, or a size does not fit.
            ValueError: a pass or layer that a term needs is missing, or targets have no lengths.
        """
        self._check_complete(supervision)
        total, parts = self._cost(list(self.terms), student, supervision, num_frames)
        return LossTerms(total, {name: part.detach() for name, part in parts.items()})

    def of_inner_head(self, student: StudentOutput, supervision: Supervision, num_frames: int | Tensor) -> Tensor:
        """The weighted sum for an inner layer's head; a scalar, 0 without terms."""
        return self._cost(self.inner, student, supervision, num_frames)[0]

    def _cost(
        self, names: Sequence[str], student: StudentOutput, supervision: Supervision, num_frames: int | Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of some terms, and each of them unweighted, divided by the frames."""
        nothing = torch.zeros((), device=student.log_probs.device)
        weighted, parts = [], dict.fromkeys(names, nothing)
        for weights, output, targets in self._groups(student, supervision):
            for name in names:
                if name in weights:
                    part = self.terms[name](output, targets) / num_frames
                    weighted.append(weights[name] * part)
                    parts[name] = parts[name] + part
        return torch.stack(weighted).sum() if weighted else nothing, parts

    def _groups(
        self, student: StudentOutput, supervision: Supervision
    ) -> Iterator[tuple[Mapping[str, float], StudentOutput, Supervision]]:
        """The batch with its weights; or its transcribed rows and its untranscribed rows, with the weights of each."""
        without = supervision.untranscribed
        if not without:
            yield self.weights, student, supervision
            return
        rest = sorted(set(range(len(student.lens))) - set(without))
        if rest:
            yield self.weights, student_of(student, rest), supervision_of(supervision, rest, transcribed=True)
        output, targets = student_of(student, without), supervision_of(supervision, without, transcribed=False)
        yield self._untranscribed, output, targets

    def _check_complete(self, supervision: Supervision) -> None:
        needed = (
            (self.needs_references, supervision.references, "transcripts", "Only kd_weight: 1 goes without"),
            (self.needs_targets, supervision.targets, "soft targets", "Run `asr-kd extract`, or set kd_weight: 0"),
            (
                *(self.needs_hypotheses, supervision.hypotheses, "hypotheses of a teacher"),
                "Run `asr-kd extract` or `asr-kd targets import`, or set level: frame",
            ),
        )
        for is_needed, there, what, remedy in needed:
            if is_needed and there is None:
                raise TrainingError(f"the batch has no {what}", expected=what, remedy=remedy)


def _weights(terms: Sequence[str], settings: DistillSettings, done: float) -> dict[str, float]:
    """Return the weight of each term after a share of the training."""
    kd_weight = settings.kd_weight_at(done)
    weights = {name: kd_weight * chosen.weight for name, chosen in settings.terms.items()}
    return {name: weights[name] if name in weights else 1.0 - kd_weight for name in terms}
