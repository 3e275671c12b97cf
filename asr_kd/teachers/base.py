"""Protocol of teachers: waveforms in, frame posteriors over a vocabulary out.

Shapes: B utterances, S samples, T frames, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from asr_kd.posteriors.types import DensePosteriors
from asr_kd.text.vocabulary import Vocabulary

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
    """A teacher with readable hidden layers: one that this project trained, in its own vocabulary."""

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
