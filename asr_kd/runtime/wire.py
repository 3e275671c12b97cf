"""The wire format of exported models: inputs, outputs and metadata of sherpa-onnx's zipformer2_ctc, by position.

Export, validation and running use this description. Source: sherpa-onnx 2.0.1, ``online-zipformer2-ctc-model.cc``.

Shapes: N streams, L left-context frames, C chunk frames, D width, H heads, K convolution kernel, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asr_kd.features.fbank import NUM_MEL_BINS
from asr_kd.models.settings import ConformerSettings, Context, WhisperSettings
from asr_kd.text.vocabulary import Vocabulary

BATCH = "batch"
"""The only dimension without a fixed size."""

EMBED_STATES = (128, 3, 19)
"""Fixed in the client for another model's subsampling; returned unchanged by ours."""

UNKNOWN = "<unk>"
"""A symbol that the client would print literally, so it is never output."""


class TensorSpec(NamedTuple):
    """An input or output of the graph; only its position matters to the client, not its name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def batch_axis(self) -> int:
        return self.shape.index(BATCH)

    def zeros(self, streams: int) -> np.ndarray:
        shape = [streams if size == BATCH else int(size) for size in self.shape]
        return np.zeros(shape, dtype=self.dtype)


@dataclass(frozen=True)
class WireFormat:
    """The sizes of a model that its wire format depends on."""

    width: int
    heads: int
    layers: int
    kernel: int
    context: Context
    vocab_size: int

    @classmethod
    def of(cls, settings: ConformerSettings | WhisperSettings, vocab_size: int) -> "WireFormat":
        """Return the wire format of a model; a ValueError for full context."""
        if settings.streaming is None:
            raise ValueError("a full-context model has no streaming wire format; set model.streaming in its recipe")
        return cls(
            width=settings.width,
            heads=settings.heads,
            layers=settings.num_layers,
            kernel=settings.kernel,
            context=settings.streaming.context,
            vocab_size=vocab_size,
        )

    def metadata(self) -> dict[str, str]:
        """Return the metadata without which the client ends its whole process."""
        numbers = {
            "encoder_dims": self.width,
            "query_head_dims": self.width // self.heads,
            # The client keeps values in two caches; each is one half of ours.
            "value_head_dims": self.width // self.heads // 2,
            "num_heads": self.heads,
            "num_encoder_layers": self.layers,
            "cnn_module_kernels": self.kernel,
            "left_context_len": self.context.left_context_frames,
            "T": self.context.window_feature_frames,
            "decode_chunk_len": self.context.shift_feature_frames,
        }
        return {key: str(number) for key, number in numbers.items()}

    def inputs(self) -> list[TensorSpec]:
        """Return the features, then the states."""
        features = (BATCH, self.context.window_feature_frames, NUM_MEL_BINS)
        return [TensorSpec("x", "float32", features), *self.states()]

    def outputs(self) -> list[TensorSpec]:
        """Return the log-probabilities, then the new states in the order of the old."""
        states = [TensorSpec(f"new_{name}", dtype, shape) for name, dtype, shape in self.states()]
        return [TensorSpec("log_probs", "float32", (BATCH, self.context.chunk_frames, self.vocab_size)), *states]

    def states(self) -> list[TensorSpec]:
        """Return six caches per layer, then two of the whole model."""
        left, half = self.context.left_context_frames, self.width // 2
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
    """Return the token ids that are never output: `<unk>`, where a vocabulary has it."""
    return [index for index, symbol in enumerate(vocabulary.symbols) if symbol == UNKNOWN]
