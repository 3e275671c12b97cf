"""Settings of a teacher that is a public speech encoder with a CTC head trained by a recipe."""

import sys
from typing import Literal

from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings
from asr_kd.teachers.settings import parse_source


class EncoderSettings(Settings):
    """Which encoder, which of its layers the head reads, and which layers are trained."""

    source: str
    """`hf:REPO_OR_FOLDER[@REVISION]`: Whisper, wav2vec 2.0, HuBERT, WavLM or w2v-BERT with safetensors weights. A
    repository is first looked for by its last name in the folder that ASR_KD_MODELS names."""
    layers: Literal["all"] | tuple[int, ...] = "all"
    """Layers, counted from 1, whose weighted mean the head reads. The last of Whisper includes its final LayerNorm."""
    unfreeze_layers: int = Field(0, ge=0)
    """Number of layers, from the top, that are trained with the head; 0 trains the head alone."""
    frozen_epochs: int = Field(0, ge=0)
    """First epochs in which the unfrozen layers stay as they are, so that the head is trained before them."""
    rate: float = Field(0.1, gt=0, le=1)
    """Learning rate of the top layer, as a share of the head's."""
    layer_decay: float = Field(0.8, gt=0, le=1)
    """Learning rate of a layer as a share of that of the layer above it."""
    window_seconds: float = Field(30.0, ge=2)
    """Longer audio is encoded in overlapping windows of at most this length. Whisper's positions end at 30 s."""
    overlap_seconds: float = Field(4.0, gt=0)
    """Audio that two neighbouring windows share; each contributes its frames up to the middle of it."""
    cache_mb: int = Field(4096, ge=0)
    """Memory for the outputs of a frozen encoder, in float16, by the content of the audio: an utterance is encoded once
    for each way it is augmented, until the memory is full."""

    @field_validator("source")
    @classmethod
    def _of_transformers(cls, source: str) -> str:
        if parse_source(source).kind != "hf":
            raise ValueError(f"the encoder {source!r} must be hf:REPO_OR_FOLDER[@REVISION]")
        return source

    @field_validator("layers")
    @classmethod
    def _count_from_one(cls, layers: Literal["all"] | tuple[int, ...]) -> Literal["all"] | tuple[int, ...]:
        if layers != "all" and (not layers or layers[0] < 1 or sorted(set(layers)) != list(layers)):
            raise ValueError(f"layers {list(layers)} must be numbers from 1 in rising order, at least one, or `all`")
        return layers

    @model_validator(mode="after")
    def _fits_together(self) -> "EncoderSettings":
        if not self.overlap_seconds < self.window_seconds / 2:
            raise ValueError(
                f"overlap_seconds ({self.overlap_seconds:g}) must be below half of window_seconds "
                f"({self.window_seconds:g})"
            )
        return self


class HeadSettings(Settings):
    """The CTC head: a projection of two encoder frames to one of 40 ms, residual convolutions, a linear output."""

    width: int = Field(384, ge=8, le=4096)
    """Channels of the projection and of the convolutions."""
    blocks: int = Field(3, ge=0, le=20)
    """Residual blocks: LayerNorm, convolution over time, GELU, dropout."""
    kernel: int = Field(5, ge=1, le=31)
    """Frames of 40 ms that a convolution covers."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """After the projection, in each block and before the output."""
    masks_per_second: float = Field(0.8, ge=0)
    """Time masks on the encoder's output in training, drawn for each utterance."""
    mask_frames: int = Field(7, ge=0)
    """Longest time mask, in 40 ms frames."""
    channel_masks: int = Field(2, ge=0, le=10)
    """Masks over neighbouring channels of the encoder's output in training."""
    channel_mask_share: float = Field(0.12, ge=0, le=1)
    """Widest channel mask, as a share of the encoder's width."""

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} must be odd")
        return kernel


class EncoderCtcSettings(Settings):
    """A public encoder with a head: what stands beside `train` in a recipe."""

    encoder: EncoderSettings
    head: HeadSettings = HeadSettings()

    @property
    def width(self) -> int:
        """Channels of the head."""
        return self.head.width

    @property
    def num_layers(self) -> int:
        """More than any encoder has: a recipe does not open one to count them."""
        return sys.maxsize

    @property
    def streaming(self) -> None:
        """Never: the encoder reads the whole utterance."""
        return None
