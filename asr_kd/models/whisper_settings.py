"""Settings of the streaming encoder that begins from Whisper's layers."""

import sys
from typing import ClassVar

from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings
from asr_kd.models.settings import Streaming

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
    kernel: int = Field(15, ge=3, le=63)
    """Frames of 40 ms that the causal depthwise convolution covers, which is added to each layer and begins at zero;
    odd."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations that training drops."""
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
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} must be odd")
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
        """Layers that are kept."""
        return len(self.layers)

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
