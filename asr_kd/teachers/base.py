"""Protocol of teachers, waveforms in, frame posteriors over a vocabulary out; and CTC models as teachers.

An utterance's posteriors must not depend on its neighbours in a batch. Models that mask what is padded get whole
batches; the others get groups of utterances of one length, which need no padding.

Shapes: B utterances, S samples, T frames, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from asr_kd.errors import CheckpointError, VocabularyError
from asr_kd.files import sha256_of
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.frame_geometry import FrameGeometry
from asr_kd.teachers.settings import Precision
from asr_kd.text.vocabulary import BLANK, WORD_SEPARATOR, Vocabulary

LAYERS_ONLY = "layers"
"""`features["kind"]` of a teacher without posteriors: every frame is blank with certainty."""


class Teacher(Protocol):
    """A model that gives CTC posteriors at a fixed frame shift."""

    @property
    def name(self) -> str:
        """Name in messages and reports."""
        ...

    @property
    def sha256(self) -> str:
        """Of the weights: equal exactly when the teacher is the same."""
        ...

    @property
    def vocabulary(self) -> Vocabulary:
        """Symbols of the V outputs, the blank included."""
        ...

    @property
    def frame_shift_ms(self) -> float:
        """Time from one posterior frame to the next, milliseconds."""
        ...

    @property
    def frame_offset_ms(self) -> float:
        """Centre of posterior frame 0 after the start of the audio, milliseconds; frame i lies i shifts later."""
        ...

    @property
    def features(self) -> Mapping[str, Any]:
        """Input features as plain data; soft targets record them."""
        ...

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Posteriors at temperature 1, without gradients.

        Args:
            waveforms: 16 kHz mono in [-1, 1], [B, S] float32; anything after an utterance's length is ignored.
            sample_lens: [B] int64.

        Returns:
            [B, T, V] float32 and lengths [B] int64; 0 frames for audio shorter than the model's window.
        """
        ...


@runtime_checkable
class LayeredTeacher(Teacher, Protocol):
    """A teacher with readable hidden layers: a model folder of this project, or a public encoder without a head."""

    @property
    def num_layers(self) -> int:
        """Layers, counted from 1."""
        ...

    @property
    def width(self) -> int:
        """Channels of each layer."""
        ...

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """Posteriors as of `log_probs`, and the outputs of these layers, [B, T, width] each."""
        ...


Forward = Callable[[Sequence[Tensor]], Tensor]
"""Waveforms [S] each, on the CPU → logits [B, T, V] on the model's device; T may exceed an utterance's frames."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class CtcTeacher:
    """A CTC model of another project as a teacher; see `teachers.base.Teacher` for what its members mean.

    Args:
        name: in messages and reports.
        weights_sha256: of the weights and of what decides how they are applied.
        vocabulary: in the order of the model's outputs.
        geometry: of its frames.
        features: input features, as plain data.
        forward: the model.
        masks_padding: whether posteriors are the same when the waveform is padded; otherwise it never is.
        device: where the model runs.
        precision: arithmetic of the model's layers.
    """

    name: str
    weights_sha256: str
    vocabulary: Vocabulary
    geometry: FrameGeometry
    features: Mapping[str, Any]
    forward: Forward
    masks_padding: bool
    device: torch.device
    precision: Precision = "fp32"

    @property
    def sha256(self) -> str:
        return with_precision(self.weights_sha256, self.precision)

    @property
    def frame_shift_ms(self) -> float:
        return self.geometry.shift_ms

    @property
    def frame_offset_ms(self) -> float:
        return self.geometry.offset_ms

    @torch.inference_mode()
    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """See `Teacher.log_probs`.

        Raises:
            CheckpointError: the model gives other numbers of frames or tokens than its configuration promises.
        """
        num_samples = sample_lens.tolist()
        frames = [self.geometry.frames(length) for length in num_samples]
        lens = torch.tensor(frames, dtype=torch.int64, device=self.device)
        shape = (len(frames), max(frames, default=0), len(self.vocabulary))
        log_probs = torch.zeros(shape, dtype=torch.float32, device=self.device)
        for rows in self._groups(num_samples, frames):
            longest = max(frames[row] for row in rows)
            with arithmetic(self.precision, self.device):
                logits = self.forward([waveforms[row, : num_samples[row]] for row in rows])
            self._check(logits, longest)
            log_probs[rows, :longest] = logits[:, :longest].float().log_softmax(dim=-1)
        return DensePosteriors(log_probs, lens)

    def _groups(self, num_samples: Sequence[int], frames: Sequence[int]) -> Iterator[list[int]]:
        """Rows that go through the model together; rows without a frame go nowhere."""
        rows = [row for row, count in enumerate(frames) if count > 0]
        if self.masks_padding:
            yield from [rows] if rows else []
            return
        for length in sorted({num_samples[row] for row in rows}):
            yield [row for row in rows if num_samples[row] == length]

    def _check(self, logits: Tensor, frames: int) -> None:
        if logits.shape[-1] != len(self.vocabulary):
            raise CheckpointError(
                f"the model has {logits.shape[-1]} outputs",
                where=self.name,
                expected=f"the {len(self.vocabulary)} of its vocabulary",
            )
        if logits.shape[1] < frames:
            raise CheckpointError(
                f"the model gives {logits.shape[1]} frames", where=self.name, expected=f"{frames}, by its strides"
            )


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """In which to run a model: autocast keeps weights, norms and softmaxes that need it in float32."""
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


def with_precision(sha256: str, precision: Precision) -> str:
    """A teacher's identity at a precision: that of its weights in float32."""
    return sha256 if precision == "fp32" else sha256_of({"weights": sha256, "precision": precision})


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 of names, types, shapes and contents, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def ctc_vocabulary(labels: Sequence[str | None], blank_id: int | None, separator: str | None, where: str) -> Vocabulary:
    """Return the vocabulary of a model's outputs.

    Every output keeps its id. The blank becomes `<blk>`, the separator `▁`; pieces such as ``▁the`` stay as they
    are. Outputs without a label, or with one that cannot be printed or is taken, get a distinct name that no text
    contains, ``<unused-7>``: they are part of the softmax, so they are part of the vocabulary.

    Args:
        labels: of each output from 0; None where the model's files name none.
        blank_id: CTC's blank.
        separator: the label that stands between words, ``|`` for example; None where pieces carry ▁ themselves.
        where: what errors name.

    Raises:
        VocabularyError: there is no such blank.
    """
    if blank_id is None or not 0 <= blank_id < len(labels):
        raise VocabularyError(
            f"blank is {blank_id}", where=where, expected=f"the id of one of the {len(labels)} outputs"
        )
    names = [WORD_SEPARATOR if separator is not None and label == separator else label for label in labels]
    names[blank_id] = BLANK
    taken = {BLANK}
    symbols = []
    for index, name in enumerate(names):
        usable = name is not None and name.split() == [name] and (index == blank_id or name not in taken)
        symbols.append(name if usable and name is not None else f"<unused-{index}>")
        taken.add(symbols[-1])
    return Vocabulary(tuple(symbols))
