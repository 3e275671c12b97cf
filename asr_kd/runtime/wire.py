"""The wire format of exported models: sherpa-onnx's zipformer2_ctc, by position, with its metadata.

One description serves export (what to write), validation (what must be there) and running (what to feed).
Read from sherpa-onnx 2.0.1, ``online-zipformer2-ctc-model.cc``. Knows shapes; nothing of torch or onnx.

Shapes: N streams, L left-context frames, C chunk frames, D width, H heads, K convolution kernel, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.settings import ConformerSettings
from asr_kd.models.subsampling import FACTOR, feature_frames_for
from asr_kd.text.vocabulary import Vocabulary

BATCH = "batch"
"""The one dimension left open."""

EMBED_STATES = (128, 3, 19)
"""Hard-wired in the client for another model's subsampling; passes through ours untouched."""

UNKNOWN = "<unk>"
"""A symbol that the client would print literally, so decoders never choose it."""


class TensorSpec(NamedTuple):
    """An input or output of the graph; only its position matters to the client, not its name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def batch_axis(self) -> int:
        """Where the streams lie."""
        return self.shape.index(BATCH)

    @property
    def passes_through(self) -> bool:
        """Whether it belongs to another model and comes out as it went in."""
        return self.name.startswith(("cached_nonlin_attn", "embed_states"))

    def zeros(self, streams: int) -> np.ndarray:
        """Zeros for so many streams: no history."""
        shape = [streams if size == BATCH else int(size) for size in self.shape]
        return np.zeros(shape, dtype=self.dtype)


@dataclass(frozen=True)
class WireFormat:
    """Everything about a model that shows on the wire."""

    width: int
    heads: int
    layers: int
    kernel: int
    chunk_frames: int
    left_context_frames: int
    vocab_size: int

    @classmethod
    def of(cls, settings: ConformerSettings, vocab_size: int) -> "WireFormat":
        """The wire format of a model.

        Raises:
            ValueError: the model needs the whole utterance.
        """
        if settings.streaming is None:
            raise ValueError("a full-context model has no streaming wire format; set model.streaming in its recipe")
        return cls(
            width=settings.width,
            heads=settings.heads,
            layers=settings.layers,
            kernel=settings.kernel,
            chunk_frames=settings.streaming.chunk_frames,
            left_context_frames=settings.streaming.left_context_frames,
            vocab_size=vocab_size,
        )

    @property
    def window_frames(self) -> int:
        """Feature frames that a chunk reads, 4C + 3."""
        return feature_frames_for(self.chunk_frames)

    def metadata(self) -> dict[str, str]:
        """What the client needs to know; without one of these it ends the whole process."""
        numbers = {
            "encoder_dims": self.width,
            "query_head_dims": self.width // self.heads,
            # The client keeps values in two caches; each is one half of ours.
            "value_head_dims": self.width // self.heads // 2,
            "num_heads": self.heads,
            "num_encoder_layers": self.layers,
            "cnn_module_kernels": self.kernel,
            "left_context_len": self.left_context_frames,
            "T": self.window_frames,
            "decode_chunk_len": FACTOR * self.chunk_frames,
        }
        return {key: str(number) for key, number in numbers.items()}

    def inputs(self) -> list[TensorSpec]:
        """The features, then the states."""
        return [TensorSpec("x", "float32", (BATCH, self.window_frames, NUM_MEL_BINS)), *self.states()]

    def outputs(self) -> list[TensorSpec]:
        """The log-probabilities, then the new states in the order of the old."""
        states = [TensorSpec(f"new_{name}", dtype, shape) for name, dtype, shape in self.states()]
        return [TensorSpec("log_probs", "float32", (BATCH, self.chunk_frames, self.vocab_size)), *states]

    def states(self) -> list[TensorSpec]:
        """Six caches a layer, then two of the whole model."""
        left, half = self.left_context_frames, self.width // 2
        shapes: dict[str, tuple[int | str, ...]] = {
            "cached_key": (left, BATCH, self.width),
            "cached_nonlin_attn": (1, BATCH, left, 3 * self.width // 4),
            "cached_val1": (left, BATCH, half),
            "cached_val2": (left, BATCH, half),
            "cached_conv1": (BATCH, self.width, self.kernel // 2),
            "cached_conv2": (BATCH, self.width, self.kernel // 2),
        }
        layers = [
            TensorSpec(f"{name}_{layer}", "float32", shape)
            for layer in range(self.layers)
            for name, shape in shapes.items()
        ]
        return [
            *layers,
            TensorSpec("embed_states", "float32", (BATCH, *EMBED_STATES)),
            TensorSpec("processed_lens", "int64", (BATCH,)),
        ]


def unprintable_tokens(vocabulary: Vocabulary) -> list[int]:
    """Token ids that must never be written: `<unk>`, where a vocabulary has it."""
    return [index for index, symbol in enumerate(vocabulary.symbols) if symbol == UNKNOWN]
