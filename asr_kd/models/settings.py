"""Settings of the Conformer and its named sizes."""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from asr_kd.config import Settings

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
about 5, 10 and 30 million with 29 characters or 500 BPE pieces.

A student's multiplications a second hardly depend on its shape, only on its size: every weight outside the
subsampling meets each 40 ms frame once. So depth is free in arithmetic, and 16 to 18 layers of width 144 to 256 are
what Conformer-S/M (Gulati et al. 2020: 10.3 and 30.7 M) and NeMo's Conformer-CTC (176 × 16: 13 M; 256 × 18: 30 M)
have. In time it is not free: of three shapes of 5 M, a chunk of 320 ms took 9 ms with 224 × 4, 14 ms with 144 × 10 and
25 ms with 96 × 22 (torch, one thread of a shared AMD EPYC, the fastest of 30), so 5m keeps the width of Conformer-S and
gives up layers. Where we leave them: subsampling of full width would take 30 % of the arithmetic of 30m for 6 % of its
weights, so few channels and one more layer; and a kernel of 15 frames, all of them past, because what is further back
is attention's.
"""


class Context(NamedTuple):
    """What a frame of chunk i may see: frames [i·chunk − left, (i+1)·chunk)."""

    chunk_frames: Annotated[int, Field(ge=1, le=128)]
    left_context_frames: Annotated[int, Field(ge=1, le=1024)]


class Streaming(Settings):
    """How a model streams. A frame is 40 ms."""

    chunk_frames: int = Field(8, ge=1, le=128)
    """Frames of a chunk; 8 are 320 ms."""
    left_context_frames: int = Field(64, ge=1, le=1024)
    """Frames before a chunk that its frames attend to."""
    train_contexts: tuple[Context, ...] = ()
    """Dynamic chunk: (chunk, left context) pairs, one drawn a training step; empty trains on the pair above."""

    @property
    def context(self) -> Context:
        """The pair used outside training."""
        return Context(self.chunk_frames, self.left_context_frames)


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
    kernel: int = Field(ge=3, le=63)
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
        if isinstance(data, dict) and data.get("size") in SIZES:
            return {**SIZES[data["size"]], **data}
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> "ConformerSettings":
        if self.width % (4 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of 4 × heads ({self.heads})")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
        return self

    @property
    def architecture(self) -> str:
        """Name for people."""
        return "Conformer"

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self.layers
