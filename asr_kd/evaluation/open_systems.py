"""Open model folders, bundles and existing teachers as systems to evaluate, and compute their posteriors.

Shapes: B utterances, S samples, T frames, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from asr_kd.audio import SAMPLE_RATE
from asr_kd.decoding.base import Decoder, Hypothesis, text_of
from asr_kd.decoding.beam import open_decoder
from asr_kd.decoding.greedy import greedy
from asr_kd.decoding.settings import GREEDY, DecodingSettings
from asr_kd.errors import EvaluationError, VocabularyError
from asr_kd.evaluation.system import Role, System
from asr_kd.features.fbank import batches_by_duration
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.settings import Context
from asr_kd.posteriors.measures import frame_mask
from asr_kd.posteriors.types import DensePosteriors, FrameGrid
from asr_kd.runtime.backend import TorchBackend, check_numbers
from asr_kd.runtime.bundle import read_bundle, split_graph
from asr_kd.runtime.recognizer import Recognizer, open_recognizer
from asr_kd.targets.bridge import STUDENT_GRID, BridgeSettings, bridge, grid_of
from asr_kd.teachers.base import Teacher
from asr_kd.text.vocabulary import Vocabulary

TEACHER_BATCH_SECONDS = 60.0
"""Padded audio in one batch of a teacher."""


def open_system(
    name: str,
    role: Role,
    folder: Path,
    *,
    device: str = "cpu",
    details: Mapping[str, Any] | None = None,
    decoding: DecodingSettings = GREEDY,
) -> System:
    """Open a model folder (torch), or a bundle or one of its graphs, under a name.

    Raises:
        CheckpointError: neither of the two, or a damaged model folder.
        BundleError: a damaged bundle.
        LanguageModelError: the LM or lexicon does not fit.
        MissingExtraError: a bundle without onnxruntime, a beam without flashlight-text.
    """
    recognizer = open_recognizer(folder, device=device, decoding=decoding)
    backend, context = recognizer.backend, recognizer.context
    if isinstance(backend, TorchBackend):
        parameters = sum(weights.numel() for weights in backend.model.parameters())
        engine, where = "torch", str(backend.model.mean.device)
    else:
        parameters = read_bundle(*split_graph(folder)).info.num_parameters
        engine, where = "onnxruntime", "cpu"
    streaming = {
        "chunk_ms": context.chunk_frames * FRAME_SHIFT_MS if context else None,
        "left_context_ms": context.left_context_frames * FRAME_SHIFT_MS if context else None,
        "right_context_ms": context.right_context_frames * FRAME_SHIFT_MS if context else None,
    }
    facts = {"engine": engine, **streaming, **_decoding_details(decoding), **(details or {})}
    return System(name, role, recognizer, weights=folder, parameters=parameters, device=where, details=facts)


def open_teacher_system(
    name: str,
    teacher: Teacher,
    *,
    role: Role = "teacher",
    device: str = "cpu",
    details: Mapping[str, Any] | None = None,
    batch_seconds: float = TEACHER_BATCH_SECONDS,
    decoding: DecodingSettings = GREEDY,
) -> System:
    """A teacher that this run did not train as a system, decoded in its own vocabulary.

    Parameters and bytes of the weights are reported when the teacher has `num_parameters` and `num_bytes`, which the
    protocol does not require. The teacher is taken before any bridge to the student's vocabulary and frames; `details`
    are further facts for the report, such as its `source`, as plain data.
    """
    facts = {
        "engine": "teacher",
        "external": True,
        "sha256": teacher.sha256,
        "symbols": len(teacher.vocabulary),
        "frame_shift_ms": teacher.frame_shift_ms,
        **_decoding_details(decoding),
    }
    return System(
        name,
        role,
        TeacherRecognizer(teacher, batch_seconds, open_decoder(teacher.vocabulary, decoding)),
        parameters=getattr(teacher, "num_parameters", None),
        size_bytes=getattr(teacher, "num_bytes", None),
        device=device,
        details={**facts, **(details or {})},
    )


class TeacherRecognizer:
    """Transcripts of a teacher, by a greedy decoder where none is given."""

    def __init__(
        self, teacher: Teacher, batch_seconds: float = TEACHER_BATCH_SECONDS, decoder: Decoder | None = None
    ) -> None:
        self.teacher, self.batch_seconds = teacher, batch_seconds
        self.decoder = decoder or open_decoder(teacher.vocabulary)

    def transcribe(self, waveforms: Sequence[Tensor]) -> list[str]:
        """Text of whole utterances, [S] each.

        Raises:
            CheckpointError: the teacher gives NaN.
        """
        texts = [""] * len(waveforms)
        for batch in batches_by_duration([len(waveform) for waveform in waveforms], self.batch_seconds * SAMPLE_RATE):
            dense = self.log_probs([waveforms[index] for index in batch])
            for index, nbest in zip(batch, self.decoder.decode(dense.log_probs, dense.lens), strict=True):
                texts[index] = text_of(nbest[0], self.teacher.vocabulary)
        return texts

    def log_probs(self, waveforms: Sequence[Tensor]) -> DensePosteriors:
        """Posteriors of one batch of waveforms, [S] each.

        Raises:
            CheckpointError: the teacher gives NaN.
        """
        lens = torch.tensor([len(waveform) for waveform in waveforms])
        dense = self.teacher.log_probs(pad_sequence(list(waveforms), batch_first=True), lens)
        valid = frame_mask(dense.lens.to(dense.log_probs.device), dense.log_probs.shape[1])
        check_numbers(dense.log_probs[valid], self.teacher.name)
        return dense


def _decoding_details(decoding: DecodingSettings) -> dict[str, Any]:
    """Details of a decoder that is not greedy, for the report."""
    return {} if decoding == GREEDY else {"decoding": decoding.model_dump(mode="json", exclude_defaults=True)}


@dataclass(frozen=True)
class SystemPosteriors:
    """A system's posteriors.

    Args:
        log_probs: a waveform [S] → log-probabilities [T, V] float32 on the CPU, its padding included.
        context: chunk, left and right context of a system that streams.
        teacher: the teacher behind it, where one may be bridged to another vocabulary and grid.
    """

    log_probs: Callable[[Tensor], Tensor]
    vocabulary: Vocabulary
    grid: FrameGrid
    context: Context | None = None
    teacher: Teacher | None = None

    def emissions(self, log_probs: Tensor) -> Hypothesis:
        """Greedy tokens of [T, V] and the frame of each."""
        return greedy(log_probs.unsqueeze(0), torch.tensor([len(log_probs)]), self.vocabulary.blank_id)[0]


def posteriors_of(system: System) -> SystemPosteriors | None:
    """The posteriors of a system; None for one that gives text only."""
    recognizer = system.recognizer
    if isinstance(recognizer, TeacherRecognizer):
        return _posteriors_of_teacher(recognizer.teacher)
    if not isinstance(recognizer, Recognizer):
        return None

    def log_probs(waveform: Tensor) -> Tensor:
        output = recognizer.log_probs([waveform])
        return output.log_probs[0, : int(output.lens[0])].float()

    return SystemPosteriors(log_probs, recognizer.vocabulary, STUDENT_GRID, recognizer.context)


def bridged_to(
    teacher: SystemPosteriors, student: SystemPosteriors, settings: BridgeSettings | None = None
) -> SystemPosteriors:
    """The teacher in the student's vocabulary on the student's frames.

    Raises:
        EvaluationError: its symbols cannot be mapped, or it is a model whose posteriors are not bridged.
    """
    if teacher.vocabulary.symbols == student.vocabulary.symbols and teacher.grid == student.grid:
        return teacher
    if teacher.teacher is None:
        raise EvaluationError("the teacher's tokens are not the student's")
    try:
        return _posteriors_of_teacher(bridge(teacher.teacher, student.vocabulary, student.grid, settings))
    except VocabularyError as error:
        raise EvaluationError(f"the teacher's symbols cannot be mapped to the student's ({error})") from error


def _posteriors_of_teacher(teacher: Teacher) -> SystemPosteriors:
    def log_probs(waveform: Tensor) -> Tensor:
        output = teacher.log_probs(waveform.unsqueeze(0), torch.tensor([len(waveform)]))
        return output.log_probs[0, : int(output.lens[0])].float().cpu()

    return SystemPosteriors(log_probs, teacher.vocabulary, grid_of(teacher), teacher=teacher)
