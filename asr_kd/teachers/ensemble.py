"""Open teachers by their settings, one or an ensemble: the weighted average of several teachers' posteriors.

Shapes: B utterances, S samples, T frames, V vocabulary.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from asr_kd.config import user_path
from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.files import sha256_of
from asr_kd.hub import own_model
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.huggingface_encoder import EncoderLayers
from asr_kd.teachers.local import LocalTeacher
from asr_kd.teachers.settings import EncoderSettings, TeacherSource, parse_source
from asr_kd.teachers.windows import WindowedTeacher

Average = Literal["probabilities", "log_probabilities"]


class Ensemble:
    """The average of teachers that share a vocabulary and a frame grid; see `teachers.base.Teacher`.

    Args:
        members: at least one.
        weights: of each member, positive; only their ratios count.
        average: of probabilities (a mixture: what any member believes stays possible), or of log-probabilities,
            normalised again (a product: what any member rules out is out).

    Raises:
        RecipeError: members that differ in vocabulary or frames; both sides are named.
    """

    def __init__(self, members: Sequence[Teacher], weights: Sequence[float], average: Average) -> None:
        if not members or len(members) != len(weights) or min(weights) <= 0:
            raise ValueError(f"{len(members)} members with the weights {list(weights)}")
        first = members[0]
        for other in members[1:]:
            _check_pair(first, other)
        self.members = tuple(members)
        self.weights = tuple(weight / sum(weights) for weight in weights)
        self.average: Average = average
        self.name = " + ".join(member.name for member in members)
        self.vocabulary = first.vocabulary
        self.frame_shift_ms, self.frame_offset_ms = first.frame_shift_ms, first.frame_offset_ms
        self.features: Mapping[str, Any] = {"ensemble": [dict(member.features) for member in members]}

    @property
    def sha256(self) -> str:
        """Of members, weights and average."""
        parts = [[member.sha256, weight] for member, weight in zip(self.members, self.weights, strict=True)]
        return sha256_of({"average": self.average, "members": parts})

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """See `Teacher.log_probs`.

        Raises:
            CheckpointError: members that give other numbers of frames for the same audio.
        """
        total, lens = self.members[0].log_probs(waveforms, sample_lens)
        total = self._weighted(total, self.weights[0])
        for member, weight in zip(self.members[1:], self.weights[1:], strict=True):
            dense = member.log_probs(waveforms, sample_lens)
            self._check_lens(member, lens, dense.lens)
            frames = min(total.shape[1], dense.log_probs.shape[1])
            ours, theirs = total[:, :frames], self._weighted(dense.log_probs[:, :frames].to(total.device), weight)
            total = torch.logaddexp(ours, theirs) if self.average == "probabilities" else ours + theirs
        return DensePosteriors(total.log_softmax(dim=-1), lens)

    def _weighted(self, log_probs: Tensor, weight: float) -> Tensor:
        if self.average == "probabilities":
            return log_probs.float() + math.log(weight)
        # 0 · −∞ cannot occur, because weights are positive; −∞ itself stays: ruled out is out.
        return log_probs.float() * weight

    def _check_lens(self, member: Teacher, lens: Tensor, others: Tensor) -> None:
        differing = (lens.cpu() != others.cpu()).nonzero().flatten().tolist()
        if differing:
            row = differing[0]
            raise CheckpointError(
                f"{self.members[0].name} gives {int(lens[row])} frames and {member.name} {int(others[row])} for the "
                "same audio",
                where=self.name,
                expected="one frame grid in an ensemble",
            )


class OutOfFold(Ensemble):
    """Teachers of folds as one: each labels the utterances that it was not trained on.

    A teacher is nearly certain of its own training audio, so its posteriors there hold little beyond the transcript.
    Member i was trained on all but fold i. Posteriors of audio that no member was trained on are the members' average.

    Raises:
        RecipeError: members that differ in vocabulary or frames.
    """

    def __init__(self, members: Sequence[Teacher], fold_of: Mapping[str, int], name: str) -> None:
        super().__init__(members, [1.0] * len(members), "probabilities")
        self.fold_of = dict(fold_of)
        self.name = name

    @property
    def sha256(self) -> str:
        """Of all members and of the assignment of utterances."""
        hashes = [member.sha256 for member in self.members]
        return sha256_of({"out_of_fold": hashes, "fold_of": sorted(self.fold_of.items())})

    def member_for(self, utterance_id: str) -> Teacher:
        """Return the member that was not trained on this utterance; the whole ensemble for other audio."""
        fold = self.fold_of.get(utterance_id)
        return self if fold is None else self.members[fold]


def _check_pair(first: Teacher, other: Teacher) -> None:
    if first.vocabulary != other.vocabulary:
        pairs = enumerate(zip(first.vocabulary.symbols, other.vocabulary.symbols, strict=False))
        differing = next((f"id {index} is {a!r} and {b!r}" for index, (a, b) in pairs if a != b), "one goes on longer")
        raise RecipeError(
            f"{first.name} has {len(first.vocabulary)} symbols and {other.name} {len(other.vocabulary)}; {differing}",
            where="ensemble",
            expected="one vocabulary, in one order",
            remedy="Take members of one family, or make a store for each and train on them in turn",
        )
    grids = [(member.frame_shift_ms, member.frame_offset_ms) for member in (first, other)]
    if not all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(*grids, strict=True)):
        (shift, offset), (other_shift, other_offset) = grids
        raise RecipeError(
            f"{first.name} has frames at {offset:g} + {shift:g}·i ms and {other.name} at "
            f"{other_offset:g} + {other_shift:g}·i ms",
            where="ensemble",
            expected="one frame grid",
            remedy="Take members of one family",
        )


def open_teacher_source(settings: TeacherSource, device: torch.device | str = "cpu") -> Teacher:
    """Open the teacher, or ensemble, that the settings name.

    Raises:
        AsrKdError: a source that cannot be opened, with the file that is missing and the command that fetches it;
            members of an ensemble that differ; windows that do not fit the teacher's frames.
    """
    if settings.is_encoder:  # which has windows of its own
        source = "hf:" + settings.members[0].source.partition(":")[2]
        window = {} if settings.window_seconds is None else {"window_seconds": settings.window_seconds}
        plain = {"source": source, "overlap_seconds": settings.overlap_seconds, **window}
        return EncoderLayers(EncoderSettings.model_validate(plain), device, settings.precision)
    opened = [_open_one(member.source, settings, device) for member in settings.members]
    weights = [member.weight for member in settings.members]
    teacher = opened[0] if len(opened) == 1 else Ensemble(opened, weights, settings.average)
    if settings.window_seconds is None:
        return teacher
    return WindowedTeacher(teacher, settings.window_seconds, settings.overlap_seconds)


def _open_one(source: str, settings: TeacherSource, device: torch.device | str) -> Teacher:
    kind, place, revision = parse_source(source)
    # Each library is imported only when one of its models is opened.
    if kind == "local":
        return LocalTeacher(user_path(place), device, settings.precision)
    if kind == "torchaudio":
        from asr_kd.teachers.torchaudio_ctc import open_torchaudio

        return open_torchaudio(place, device, settings.precision)
    if kind == "hf":
        if (own := own_model(place, revision)) is not None:
            return LocalTeacher(own, device, settings.precision)
        from asr_kd.teachers.huggingface_ctc import open_huggingface

        return open_huggingface(place, revision, device, settings.precision)
    if kind == "speechbrain":
        from asr_kd.teachers.speechbrain_ctc import SpeechbrainTeacher

        return SpeechbrainTeacher(
            place, revision or "", allow_code=settings.allow_code, device=device, precision=settings.precision
        )
    raise RecipeError(
        f"{source!r} names a teacher that a recipe trains",
        expected="a source that exists outside a recipe: torchaudio:, hf:, encoder:, speechbrain: or local:",
    )
