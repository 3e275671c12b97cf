"""The weighted sum of objectives, and the settings that choose it.

L = ((1 − λ)·CTC + λ·D) / frames, where D compares with the teacher frame by frame (KL·T²) or by what it understood
(weighted CTC against its hypotheses). Every term is summed over the batch and divided by the same number, the global
batch's student frames, so that λ means the same for any batch. Knows tensors only.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from asr_kd.config import Settings
from asr_kd.errors import TrainingError
from asr_kd.losses.base import Hypotheses, References, Supervision, Term
from asr_kd.losses.ctc import Ctc
from asr_kd.losses.frame_kl import FrameKl, Selection
from asr_kd.losses.sequence import SequenceCtc
from asr_kd.posteriors.types import DensePosteriors, SoftTargets


class DistillSettings(Settings):
    """How much a student listens to its teacher, to what of it, on which frames, and how late.

    Attributes:
        kd_weight: λ; 0 is labels alone and needs no targets, 1 needs no transcripts.
        level: `frame`: its posteriors; `sequence`: its hypotheses, weighted, which may come from any system with any
            vocabulary. The settings from `selection` to `targets` are about frames, those after it about hypotheses.
        selection: teach all frames, or those where the teacher does not say blank.
        dilation: frames added on either side of each selected frame (`selection: nonblank` only).
        delay_frames: the student answers that many output frames after its teacher.
        temperature: softens both sides; other than 1 needs `targets: dense`.
        targets: from the store, or dense posteriors from a teacher that runs along.
        hypotheses: of an utterance, the best so many.
        score_temperature: weights are the softmax of the hypotheses' scores divided by this.
        max_hypothesis_wer: hypotheses further than this from the transcript, where there is one, are not taught (a
            fraction); None teaches all.
    """

    later: ClassVar[frozenset[str]] = frozenset({"level", "hypotheses", "score_temperature", "max_hypothesis_wer"})

    kd_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    level: Literal["frame", "sequence"] = "frame"
    selection: Selection = "nonblank"
    dilation: int = Field(default=1, ge=0, le=20)
    delay_frames: int = Field(default=0, ge=0, le=50)
    temperature: float = Field(default=1.0, ge=1.0, le=20.0)
    targets: Literal["stored", "dense"] = "stored"
    hypotheses: int = Field(default=4, ge=1, le=100)
    score_temperature: float = Field(default=1.0, gt=0.0, le=1000.0)
    max_hypothesis_wer: float | None = Field(default=None, ge=0.0)

    @model_validator(mode="after")
    def _combination(self) -> "DistillSettings":
        if self.level == "sequence":
            return self
        if self.temperature != 1.0 and self.targets == "stored":
            raise ValueError(
                f"temperature {self.temperature:g} needs dense targets: the total of a stored tail does not say what "
                "it weighs once softened; set temperature: 1"
            )
        if self.kd_weight == 1.0 and self.selection == "nonblank" and self.dilation == 0:
            raise ValueError(
                "kd_weight 1 with pure blank elimination (selection: nonblank, dilation: 0) would never train blanks; "
                "set dilation to 1 or more, selection: all, or kd_weight below 1"
            )
        return self

    @property
    def needs_targets(self) -> bool:
        """Whether a student with these settings needs a teacher's posteriors."""
        return self.kd_weight > 0.0 and self.level == "frame"

    @property
    def needs_hypotheses(self) -> bool:
        """Whether a student with these settings needs a teacher's hypotheses."""
        return self.kd_weight > 0.0 and self.level == "sequence"

    @property
    def needs_references(self) -> bool:
        """Whether a student with these settings needs transcripts."""
        return self.kd_weight < 1.0


class LossTerms(NamedTuple):
    """What one batch costs."""

    total: Tensor  # scalar float32, divided by the frames; the gradient goes through this one
    parts: dict[str, Tensor]  # unweighted terms by name, divided by the frames, detached: for curves


class Objective(nn.Module):
    """Σ_i w_i · term_i / frames.

    Args:
        terms: objectives by the name their curves get.
        weights: w by the same names; all above 0.
    """

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not terms or terms.keys() != weights.keys():
            raise ValueError(
                f"terms {sorted(terms)} and weights {sorted(weights)} must have the same names, at least one"
            )
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)
        self.needs_references = any(term.needs_references for term in terms.values())
        self.needs_targets = any(term.needs_targets for term in terms.values())
        self.needs_hypotheses = any(term.needs_hypotheses for term in terms.values())

    @classmethod
    def from_settings(cls, settings: DistillSettings | None, blank_id: int) -> "Objective":
        """CTC, alone or with what the teacher teaches; a term of weight 0 is left out, and what it needs with it.

        Args:
            settings: None is labels alone.
            blank_id: the blank's index in the vocabulary.
        """
        settings = settings or DistillSettings(kd_weight=0.0)
        terms: dict[str, Term] = {}
        weights: dict[str, float] = {}
        if settings.needs_references:
            terms["ctc"], weights["ctc"] = Ctc(blank_id), 1.0 - settings.kd_weight
        if settings.needs_targets:
            terms["frame_kl"] = FrameKl(
                blank_id, settings.selection, settings.dilation, settings.delay_frames, settings.temperature
            )
            weights["frame_kl"] = settings.kd_weight
        if settings.needs_hypotheses:
            terms["sequence"], weights["sequence"] = SequenceCtc(blank_id), settings.kd_weight
        return cls(terms, weights)

    def forward(
        self,
        log_probs: Tensor,
        lens: Tensor,
        num_frames: int | Tensor,
        references: References | None = None,
        targets: SoftTargets | DensePosteriors | None = None,
        hypotheses: Hypotheses | None = None,
    ) -> LossTerms:
        """The weighted sum for one batch.

        Args:
            log_probs: the student's, [B, T, V], any float type.
            lens: the student's frames, [B].
            num_frames: student frames of the *global* batch: over accumulation and processes.
            references: tokens [B, U] with lengths [B].
            targets: the teacher's posteriors with lengths [B].
            hypotheses: what the teacher understood, any number an utterance.

        Raises:
            TrainingError: something that a term needs is missing, or does not fit the student.
        """
        supervision = Supervision(references, targets, hypotheses)
        self._check_complete(supervision)
        parts = {name: term(log_probs, lens, supervision) / num_frames for name, term in self.terms.items()}
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return LossTerms(total, {name: part.detach() for name, part in parts.items()})

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
