"""Settings of distillation: the weight λ and the objectives."""

import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from asr_kd.config import Settings
from asr_kd.losses.auxiliary import AuxiliarySettings
from asr_kd.losses.base import TermSettings
from asr_kd.losses.ctc import GuidedCtcSettings, SequenceSettings
from asr_kd.losses.frame_kl import DelayedKlSettings, FrameKlSettings, Selection
from asr_kd.losses.pooled_kl import PooledKlSettings
from asr_kd.losses.representation import RepresentationSettings
from asr_kd.losses.self_distillation import ConsistencySettings, DualModeSettings
from asr_kd.posteriors.types import array_names


class ObjectiveSettings(Settings):
    """Objectives of a weighted sum; each at most once."""

    frame_kl: FrameKlSettings | None = None
    """KL to the teacher's posteriors, frame by frame, with a fixed delay."""
    delayed_kl: DelayedKlSettings | None = None
    """KL to the teacher's posteriors, each frame at one of several delays."""
    guided_ctc: GuidedCtcSettings | None = None
    """Cross entropy at the frames where the teacher emits a token."""
    pooled_kl: PooledKlSettings | None = None
    """KL to the teacher's posteriors of each token, pooled over its frames."""
    sequence: SequenceSettings | None = None
    """CTC against the teacher's hypotheses, weighted."""
    consistency: ConsistencySettings | None = None
    """KL between two views of each utterance; needs no teacher."""
    dual_mode: DualModeSettings | None = None
    """KL from the student with full context to the student in chunks; needs no teacher."""
    auxiliary: AuxiliarySettings | None = None
    """KL to the teacher's posteriors on a full-context layer above the student, which is dropped after training."""
    representation: RepresentationSettings | None = None
    """Distance between hidden layers of student and teacher."""

    @property
    def chosen(self) -> dict[str, TermSettings]:
        """Those that are given, by name."""
        members = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: member for name, member in members.items() if member is not None}


class DistillSettings(Settings):
    """Settings of distillation: weight, objectives, frames, delay.

    Attributes:
        kd_weight: weight λ; 0 is labels alone and needs no targets, 1 leaves out CTC on the transcript.
        kd_schedule: course of λ over the steps of training: constant, linear, or half a cosine.
        kd_weight_final: value of λ at the last step of a schedule.
        untranscribed: utterances without a transcript are also trained on, with λ = 1.
        level: the targets. `frame`: the teacher's posteriors (see `selection`, `dilation`, `delay_frames`,
            `temperature`); `sequence`: weighted hypotheses of any system with any vocabulary (see `hypotheses`,
            `score_temperature`, `max_hypothesis_wer`).
        selection: all frames, or those where the teacher's best token is not blank.
        dilation: frames added on either side of each selected frame (`selection: nonblank` only).
        delay_frames: the student is that many output frames later than its teacher.
        temperature: softens both sides; other than 1 needs `targets: dense`.
        targets: from the store, or dense posteriors of a teacher that runs in each step.
        hypotheses: the largest number of hypotheses of an utterance; the best are used.
        score_temperature: weights are the softmax of the hypotheses' scores divided by this.
        max_hypothesis_wer: hypotheses further than this from the transcript, where there is one, are left out (a
            fraction); None keeps all.
        objectives: a weighted sum of objectives, instead of the one that `level` and its keys describe.
        inner_heads: what the heads at `train.inner_layers` are trained on: transcripts and teacher, or one of them.
    """

    one_objective: ClassVar[tuple[str, ...]] = (
        "level",
        "selection",
        "dilation",
        "delay_frames",
        "temperature",
        "hypotheses",
        "score_temperature",
        "max_hypothesis_wer",
    )
    """Keys that describe one objective in short."""

    kd_weight: float = Field(default=0.5, ge=0.0, le=1.0)
    kd_schedule: Literal["constant", "linear", "cosine"] = "constant"
    kd_weight_final: float | None = Field(default=None, ge=0.0, le=1.0)
    untranscribed: bool = False
    level: Literal["frame", "sequence"] = "frame"
    selection: Selection = "nonblank"
    dilation: int = Field(default=1, ge=0, le=20)
    delay_frames: int = Field(default=0, ge=0, le=50)
    temperature: float = Field(default=1.0, ge=1.0, le=20.0)
    targets: Literal["stored", "dense"] = "stored"
    hypotheses: int = Field(default=4, ge=1, le=100)
    score_temperature: float = Field(default=1.0, gt=0.0, le=1000.0)
    max_hypothesis_wer: float | None = Field(default=None, ge=0.0)
    objectives: ObjectiveSettings | None = None
    inner_heads: Literal["both", "labels", "teacher"] = "both"

    @model_validator(mode="after")
    def _combination(self) -> "DistillSettings":
        if self.objectives is not None:
            self._check_objectives(self.objectives)
        frame_kl = self._terms.get("frame_kl")
        if isinstance(frame_kl, FrameKlSettings) and frame_kl.temperature != 1.0 and self.targets == "stored":
            raise ValueError(
                f"temperature {frame_kl.temperature:g} needs dense targets: the total of a stored tail does not "
                "determine its softened weight; set temperature: 1"
            )
        if (self.kd_weight_final is None) != (self.kd_schedule == "constant"):
            raise ValueError(
                "kd_weight_final is where kd_schedule: linear or cosine leads to; set both, or neither of them"
            )
        if self.untranscribed and not self.terms.keys() - {"pooled_kl"}:
            raise ValueError(
                "untranscribed: true without an objective that applies to utterances without a transcript; "
                "set kd_weight above 0, with another objective than pooled_kl"
            )
        trains_blanks = any(term.trains_blanks for term in self._terms.values())
        if self.trains_head and self._least_kd_weight == 1.0 and not trains_blanks:
            raise ValueError(
                "kd_weight 1 with pure blank elimination (selection: nonblank, dilation: 0), or with objectives that "
                "do not train blanks of the student's head, would never train blanks; set dilation to 1 or "
                "more, selection: all, or kd_weight below 1"
            )
        return self

    def kd_weight_at(self, done: float) -> float:
        """Return λ after a share of the training: 0 at its first step, 1 at its last."""
        if self.kd_weight_final is None:
            return self.kd_weight
        moved = done if self.kd_schedule == "linear" else 0.5 * (1 - math.cos(math.pi * done))
        return self.kd_weight + (self.kd_weight_final - self.kd_weight) * moved

    @property
    def trains_head(self) -> bool:
        """Whether the student's output layer is trained; hidden layers alone do not train it."""
        return self.learns_from_labels or any(settings.term.trains_head for settings in self._terms.values())

    @property
    def _least_kd_weight(self) -> float:
        return min(self.kd_weight, self.kd_weight if self.kd_weight_final is None else self.kd_weight_final)

    def _check_objectives(self, objectives: ObjectiveSettings) -> None:
        if not objectives.chosen:
            raise ValueError(f"objectives is empty; known: {', '.join(type(objectives).model_fields)}")
        # Values at their default do not count: a resolved recipe has every key.
        fields = type(self).model_fields
        both = sorted(name for name in self.one_objective if getattr(self, name) != fields[name].default)
        if both:
            raise ValueError(f"{both[0]} describes the one objective of a student without `objectives`; set it there")

    @property
    def _terms(self) -> dict[str, TermSettings]:
        if self.objectives is not None:
            return self.objectives.chosen
        if self.level == "frame":
            return {"frame_kl": FrameKlSettings(**self._those("selection", "dilation", "delay_frames", "temperature"))}
        return {"sequence": SequenceSettings(**self._those("hypotheses", "score_temperature", "max_hypothesis_wer"))}

    def _those(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    @property
    def terms(self) -> dict[str, TermSettings]:
        """The objectives by name, in the long form; none when λ is 0 all the time."""
        return self._terms if max(self.kd_weight, self.kd_weight_final or 0.0) > 0.0 else {}

    @property
    def learns_from_labels(self) -> bool:
        """Whether λ is ever below 1."""
        return self._least_kd_weight < 1.0

    @property
    def sequence(self) -> SequenceSettings | None:
        found = self.terms.get("sequence")
        return found if isinstance(found, SequenceSettings) else None

    @property
    def needs_targets(self) -> bool:
        return any(settings.term.needs_targets for settings in self.terms.values())

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Layers of a teacher that a student with these settings needs, counted from 1."""
        return tuple(sorted({layer for settings in self.terms.values() for layer in settings.teacher_layers}))

    @property
    def needs_arrays(self) -> frozenset[str]:
        """Named arrays of the teacher's store that a student with these settings needs."""
        layers = {name for layer in self.teacher_layers for name in array_names(layer)}
        return frozenset(name for settings in self.terms.values() for name in settings.term.needs_arrays) | layers

    @property
    def passes(self) -> int:
        """Number of forward passes of a student in a training step."""
        return 1 + len({name for settings in self.terms.values() for name in settings.term.needs_passes})

    @property
    def needs_hypotheses(self) -> bool:
        return any(settings.term.needs_hypotheses for settings in self.terms.values())

    @property
    def trains_inner_heads(self) -> bool:
        """Whether any term applies to the heads of inner layers."""
        labels = self.learns_from_labels and self.inner_heads != "teacher"
        terms = self.terms.values() if self.inner_heads != "labels" else []
        return labels or any(settings.term.on_inner_heads for settings in terms)

    @property
    def needs_references(self) -> bool:
        return self.learns_from_labels or any(settings.needs_references for settings in self.terms.values())
