"""Settings of the architectures: the Conformer with its named sizes, and the streaming encoder of Whisper."""

import sys
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Discriminator, Field, PlainSerializer, Tag, field_validator, model_validator

from asr_kd.config import Odd, Settings
from asr_kd.features.fbank import FRAME_SHIFT_MS as FEATURE_SHIFT_MS
from asr_kd.models.layers import FACTOR, feature_frames_for

Size = Literal["tiny", "small", "medium", "large", "5m", "10m", "30m"]

SIZES: dict[Size, dict[str, int]] = {
    "tiny": {"width": 96, "layers": 4, "heads": 4, "feed_forward": 384, "kernel": 15, "subsampling_channels": 32},
    "small": {"width": 144, "layers": 8, "heads": 4, "feed_forward": 576, "kernel": 15, "subsampling_channels": 48},
    "medium": {"width": 256, "layers": 12, "heads": 4, "feed_forward": 1024, "kernel": 31, "subsampling_channels": 96},
    "large": {"width": 512, "layers": 17, "heads": 8, "feed_forward": 2048, "kernel": 31, "subsampling_channels": 128},
    "5m": {"width": 144, "layers": 10, "heads": 4, "feed_forward": 576, "kernel": 15, "subsampling_channels": 48},
    "10m": {"width": 160, "layers": 16, "heads": 4, "feed_forward": 640, "kernel": 15, "subsampling_channels": 64},
    "30m": {"width": 256, "layers": 19, "heads": 4, "feed_forward": 1024, "kernel": 15, "subsampling_channels": 96},
}
"""Shapes by name: teachers of about 1, 4, 19 and 104 million parameters with a character vocabulary, and students of
about 5, 10 and 30 million with 29 characters or 500 BPE pieces; docs/design/decisions.md gives their reasons."""


class Context(NamedTuple):
    """What a frame of chunk i may see: frames [i·chunk − left, (i+1)·chunk + right)."""

    chunk_frames: Annotated[int, Field(ge=1, le=128)]
    left_context_frames: Annotated[int, Field(ge=1, le=1024)]
    right_context_frames: Annotated[int, Field(ge=0, le=128)] = 0

    @property
    def window_feature_frames(self) -> int:
        """Feature frames that a step reads."""
        return feature_frames_for(self.chunk_frames + self.right_context_frames)

    @property
    def shift_feature_frames(self) -> int:
        """Feature frames by which a step moves on."""
        return FACTOR * self.chunk_frames

    @property
    def lookahead_ms(self) -> int:
        """Audio after a chunk that its step reads: the right context and what the convolutions need."""
        return (self.window_feature_frames - self.shift_feature_frames) * FEATURE_SHIFT_MS


def _shortest(context: Context) -> list[int]:
    return list(context if context.right_context_frames else context[:2])


SavedContext = Annotated[Context, PlainSerializer(_shortest)]
"""A context in a file: without right context two numbers, as files were before there was one."""


class Streaming(Settings):
    """How a model streams. A frame is 40 ms."""

    chunk_frames: int = Field(8, ge=1, le=128)
    """Frames of a chunk; 8 are 320 ms."""
    left_context_frames: int = Field(64, ge=1, le=1024)
    """Frames before a chunk that its frames attend to."""
    right_context_frames: int = Field(0, ge=0, le=128)
    """Frames after a chunk that its frames see: they are read with it and computed again with the next chunk, so a
    step costs (chunk + right) / chunk times as much, and a sound waits so much longer."""
    train_contexts: tuple[SavedContext, ...] = ()
    """Dynamic chunk: (chunk, left context) or (chunk, left context, right context), one drawn a training step; empty
    trains on the context above."""

    @property
    def context(self) -> Context:
        """What is used outside training."""
        return Context(self.chunk_frames, self.left_context_frames, self.right_context_frames)


class ConformerSettings(Settings):
    """Shape of a Conformer. `size` fills what is not given."""

    tag: ClassVar[str] = "conformer"

    size: Size | None = None
    """A named shape, which sets the keys below that are not given."""
    width: int = Field(ge=8, le=4096)
    """Width of the layers (D); a multiple of 4 × heads."""
    layers: int = Field(ge=1, le=100)
    """Conformer layers."""
    heads: int = Field(ge=1, le=64)
    """Attention heads."""
    feed_forward: int = Field(ge=8)
    """Inner width of the feed-forward parts."""
    kernel: Odd = Field(ge=3, le=63)
    """Width of the depthwise convolution; odd."""
    subsampling_channels: int = Field(ge=1)
    """Channels of the two convolutions that make one frame of four."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations that training drops."""
    streaming: Streaming | None = None
    """Chunked attention and causal convolution; without it the model sees the whole utterance."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("size") is None:
            return data
        # An unknown name is filled in too: the error then names `size` alone, not every key that it would set.
        known = isinstance(data["size"], str) and data["size"] in SIZES
        return {**SIZES[data["size"] if known else "tiny"], **data}

    @model_validator(mode="after")
    def _fits_together(self) -> "ConformerSettings":
        if self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 4 × heads ({self.heads})")
        return self

    @property
    def architecture(self) -> str:
        """Name for people."""
        return "Conformer"

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self.layers


REPOSITORY = "hf:"


class WhisperSizes(Settings):
    """What is read of the encoder."""

    width: int = Field(ge=8)
    """Width of the layers (D); a multiple of 4 × heads."""
    heads: int = Field(ge=1)
    """Attention heads."""
    feed_forward: int = Field(ge=8)
    """Inner width of the feed-forward parts."""
    sha256: str = ""
    """Of its weights and configuration."""


class CausalHead(Settings):
    """Convolutions between Whisper's layers and the output layer: residual blocks that read earlier frames only."""

    blocks: int = Field(2, ge=1, le=8)
    """Number of blocks."""
    width: int = Field(256, ge=8)
    """Inner width of a block."""
    kernel: int = Field(5, ge=1, le=63)
    """Frames of 40 ms that a block reads; at most `kernel` of the model."""
    dropout: float = Field(0.15, ge=0, lt=1)
    """Share of activations of the blocks that training drops."""


class WhisperSettings(Settings):
    """Whisper's encoder as a streaming model: which layers it begins from and how it streams."""

    tag: ClassVar[str] = "whisper"

    init: str = Field(min_length=1)
    """`hf:REPO[@REVISION]` or a folder: a Whisper of 80 mel bins with safetensors weights, whose encoder the weights
    are copied from. A repository is first looked for by its last name in the folder that ASR_KD_MODELS names."""
    layers: tuple[int, ...] = Field(min_length=1)
    """Layers of that encoder that are kept, counted from 0 as in its weights' names, in rising order."""
    feed_forward_rank: int | None = Field(None, ge=1)
    """Each matrix of the feed-forward parts as a product of two with so many columns between them (the nearest such
    product, by singular values); None: whole matrices."""
    kernel: Odd = Field(15, ge=3, le=63)
    """Frames of 40 ms that the causal depthwise convolution covers, which is added to each layer and begins at zero;
    odd."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations that training drops."""
    head: CausalHead | None = None
    """Convolutions before the output layer, which are trained with it; None: the output layer alone."""
    streaming: Streaming | None = None
    """Attention in chunks; without it the model reads the whole utterance."""
    sizes: WhisperSizes | None = None
    """Read from the encoder when training starts; a recipe leaves it out."""

    @field_validator("layers")
    @classmethod
    def _rising(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if layers[0] < 0 or sorted(set(layers)) != list(layers):
            raise ValueError(f"layers {list(layers)} must be numbers from 0 in rising order")
        return layers

    @model_validator(mode="after")
    def _fits_together(self) -> "WhisperSettings":
        if self.head is not None and self.head.kernel > self.kernel:
            raise ValueError(f"head.kernel {self.head.kernel} must not exceed kernel ({self.kernel})")
        if self.sizes is not None and self.sizes.width % (4 * self.sizes.heads):
            raise ValueError(f"width {self.sizes.width} must be a multiple of 4 × heads ({self.sizes.heads})")
        return self

    @property
    def source(self) -> str:
        """`init` as a source of transformers, `hf:REPO_OR_FOLDER[@REVISION]`."""
        return self.init if self.init.startswith(REPOSITORY) else REPOSITORY + self.init

    @property
    def architecture(self) -> str:
        """Name for people."""
        return "Whisper-encoder"

    @property
    def num_layers(self) -> int:
        """Layers that are kept, and after them the blocks of the head."""
        return len(self.layers) + (self.head.blocks if self.head is not None else 0)

    @property
    def width(self) -> int:
        """D; more than any model has while the encoder is not opened."""
        return self.sizes.width if self.sizes is not None else sys.maxsize

    @property
    def heads(self) -> int:
        """H.

        Raises:
            ValueError: the encoder is not opened yet.
        """
        return self.opened.heads

    @property
    def opened(self) -> WhisperSizes:
        """The encoder's sizes.

        Raises:
            ValueError: they are not read yet.
        """
        if self.sizes is None:
            raise ValueError("the sizes of the encoder are read when training starts")
        return self.sizes


def _architecture(value: Any) -> str:
    if isinstance(value, dict):
        return WhisperSettings.tag if "init" in value else ConformerSettings.tag
    return str(getattr(value, "tag", ConformerSettings.tag))


ModelSettings = Annotated[
    Annotated[ConformerSettings, Tag(ConformerSettings.tag)] | Annotated[WhisperSettings, Tag(WhisperSettings.tag)],
    Discriminator(_architecture),
]
"""Settings of a model: of a Whisper with an `init`, else of a Conformer."""


class ModelDescription(Settings):
    """Wrapper through which settings of either kind are parsed."""

    model: ModelSettings
