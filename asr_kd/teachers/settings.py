"""Settings of teachers: public models and folders by name, and encoders with a CTC head trained by a recipe."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from asr_kd.config import Odd, Settings, user_path

Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic of a teacher's layers; the last softmax is always taken in float32."""

KINDS = {
    "torchaudio": "torchaudio:BUNDLE",
    "hf": "hf:REPO_OR_FOLDER[@REVISION]",
    "encoder": "encoder:REPO_OR_FOLDER[@REVISION]",
    "speechbrain": "speechbrain:REPO_OR_FOLDER@REVISION (with allow_code: true)",
    "local": "local:FOLDER",
    "recipe": "recipe:TEACHER",
}
"""How each kind of source is written."""

NO_NEMO = (
    "a .nemo archive is not opened: its YAML names the Python class to build (_target_) and its weights are a pickle, "
    "so opening it can run any code. Parakeet-CTC and the like have a safetensors form on the hub: write "
    "hf:REPO@REVISION instead (nvidia/parakeet-ctc-1.1b, for example), or convert the archive where it may run code "
    "with transformers' convert_nemo_to_hf.py and write hf:FOLDER"
)

ALLOW_CODE = (
    "a speechbrain model is described by a YAML file that names the Python code to build it with, and its weights are "
    "pickles: opening one runs whatever its author wrote, with your rights. Read the hyperparams.yaml of that "
    "revision; if you trust it, set allow_code: true beside the source"
)


MODELS_VARIABLE = "ASR_KD_MODELS"
"""Names a folder of models that is looked at before the hub."""


def find_model(names: Sequence[str], file: str) -> Path | None:
    """Return the first of these folders in that of `ASR_KD_MODELS` that holds a file; None where there is none."""
    models = os.environ.get(MODELS_VARIABLE)
    folders = [user_path(models) / name for name in names] if models else []
    return next((folder for folder in folders if (folder / file).is_file()), None)


class SourceName(NamedTuple):
    """A source in its parts."""

    kind: str
    place: str
    """Bundle, repository, folder or teacher of the recipe."""
    revision: str | None
    """What follows the last @ of a repository; always None for the other kinds."""


def parse_source(text: str) -> SourceName:
    """The parts of a source such as ``hf:facebook/wav2vec2-base-960h@main``.

    Raises:
        ValueError: an unknown kind, nothing behind it, a speechbrain source without a revision, or NeMo, with the
            reason.
    """
    kind, colon, place = text.partition(":")
    if kind == "nemo" or place.endswith(".nemo"):
        raise ValueError(NO_NEMO)
    if not colon or kind not in KINDS or not place:
        raise ValueError(f"the source {text!r} must be one of {', '.join(KINDS.values())}")
    if kind not in ("hf", "encoder", "speechbrain") or (kind != "speechbrain" and user_path(place).is_dir()):
        return SourceName(kind, place, None)
    repository, at, revision = place.rpartition("@")
    if at and not (repository and revision):
        raise ValueError(f"the source {text!r} has nothing before or behind its @; write {KINDS[kind]}")
    if kind == "speechbrain" and not at:
        raise ValueError(
            f"the source {text!r} names no revision: its code could change under the recipe; a folder's "
            "revision is a word of your own"
        )
    return SourceName(kind, repository, revision) if at else SourceName(kind, place, None)


ENCODER_WINDOW_SECONDS, SHORTEST_WINDOW_SECONDS = 30.0, 2.0
"""Windows of encoders without a head: the usual ones, and the shortest."""


def _check_overlap(overlap_seconds: float, window_seconds: float) -> None:
    if not overlap_seconds < window_seconds / 2:
        raise ValueError(
            f"overlap_seconds ({overlap_seconds:g}) must be below half of window_seconds ({window_seconds:g})"
        )


class Member(Settings):
    """A teacher of an ensemble."""

    source: str
    """As in the key above it; all members need one vocabulary and one frame grid."""
    weight: float = Field(default=1.0, gt=0.0)
    """Its share of the average, relative to the other members' weights."""

    @field_validator("source")
    @classmethod
    def _readable(cls, source: str) -> str:
        parse_source(source)
        return source


def _form(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


class TeacherSource(Settings):
    """A teacher that exists already: a public model, a folder, or an ensemble of such."""

    source: Annotated[Annotated[str, Tag("one")] | Annotated[tuple[Member, ...], Tag("several")], Discriminator(_form)]
    """`torchaudio:BUNDLE`, `hf:REPO_OR_FOLDER[@REVISION]`, `speechbrain:REPO_OR_FOLDER@REVISION`, `local:FOLDER`,
    `recipe:TEACHER` (a teacher that the recipe itself trains), or a list of such with weights: an ensemble.
    `encoder:REPO_OR_FOLDER[@REVISION]` is a speech encoder of transformers without a head, for `representation`."""
    average: Literal["probabilities", "log_probabilities"] = "probabilities"
    """What an ensemble averages; log-probabilities are normalised again afterwards."""
    precision: Precision = "fp32"
    """Arithmetic of the teacher's layers; the last softmax is taken in float32."""
    window_seconds: float | None = Field(default=None, gt=0.0)
    """Longer audio is split into overlapping windows of at most this length; None: never split."""
    overlap_seconds: float = Field(default=4.0, ge=0.0)
    """Audio that two neighbouring windows share; each contributes its frames up to the middle of it."""
    allow_code: bool = False
    """Only for speechbrain sources, whose YAML runs code of its author."""

    @field_validator("source")
    @classmethod
    def _readable(cls, source: str | tuple[Member, ...]) -> str | tuple[Member, ...]:
        if isinstance(source, str):
            parse_source(source)
        elif not source:
            raise ValueError("an ensemble needs at least one member")
        return source

    @model_validator(mode="after")
    def _fits_together(self) -> "TeacherSource":
        if self.window_seconds is not None:
            _check_overlap(self.overlap_seconds, self.window_seconds)
        is_ensemble = not isinstance(self.source, str)
        if is_ensemble and any(parse_source(member.source).kind == "encoder" for member in self.members):
            raise ValueError("an encoder without a head has no posteriors to average: name it alone, not in a list")
        if self.is_encoder:
            window_seconds = ENCODER_WINDOW_SECONDS if self.window_seconds is None else self.window_seconds
            if window_seconds < SHORTEST_WINDOW_SECONDS or not self.overlap_seconds:
                raise ValueError(
                    f"an encoder needs window_seconds ({window_seconds:g}) of at least {SHORTEST_WINDOW_SECONDS:g} and "
                    f"overlap_seconds ({self.overlap_seconds:g}) above 0"
                )
            _check_overlap(self.overlap_seconds, window_seconds)
        if any(parse_source(member.source).kind == "speechbrain" for member in self.members) and not self.allow_code:
            raise ValueError(ALLOW_CODE)
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        return (Member(source=self.source),) if isinstance(self.source, str) else self.source

    @property
    def is_encoder(self) -> bool:
        """Whether it is a speech encoder without a head, which has hidden layers only."""
        return isinstance(self.source, str) and parse_source(self.source).kind == "encoder"

    @property
    def is_local(self) -> bool:
        """Whether it is one model of this project, without windows."""
        return (
            isinstance(self.source, str)
            and parse_source(self.source).kind in ("local", "recipe")
            and self.window_seconds is None
        )

    def resolved(self, folder_of: Callable[[str], Path]) -> "TeacherSource":
        """With every ``recipe:TEACHER`` replaced by ``local:`` and its model folder."""

        def local(source: str) -> str:
            kind, place, _ = parse_source(source)
            return f"local:{folder_of(place)}" if kind == "recipe" else source

        if isinstance(self.source, str):
            return self.model_copy(update={"source": local(self.source)})
        members = tuple(member.model_copy(update={"source": local(member.source)}) for member in self.source)
        return self.model_copy(update={"source": members})


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
    window_seconds: float = Field(ENCODER_WINDOW_SECONDS, ge=SHORTEST_WINDOW_SECONDS)
    """Longer audio is encoded in overlapping windows of at most this length. Whisper's positions end at 30 s."""
    overlap_seconds: float = Field(4.0, gt=0)
    """Audio that two neighbouring windows share; each contributes its frames up to the middle of it."""
    cache_mb: int = Field(4096, ge=0)
    """Memory for the outputs of frozen layers in training, in float16, by the content of the audio: an utterance is
    encoded once for each way it is augmented, until the memory is full."""

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
        _check_overlap(self.overlap_seconds, self.window_seconds)
        return self


class HeadSettings(Settings):
    """The CTC head: a projection of two encoder frames to one of 40 ms, residual convolutions, a linear output."""

    width: int = Field(384, ge=8, le=4096)
    """Channels of the projection and of the convolutions."""
    blocks: int = Field(3, ge=0, le=20)
    """Residual blocks: LayerNorm, convolution over time, GELU, dropout."""
    kernel: Odd = Field(5, ge=1, le=31)
    """Frames of 40 ms that a convolution covers."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """After the projection, in each block and before the output."""
    masks_per_second: float = Field(0.8, ge=0)
    """Time masks in training, drawn for each utterance: on the output of the encoder or, where a Whisper has unfrozen
    layers, on what these read."""
    mask_frames: int = Field(7, ge=0)
    """Longest time mask, in 40 ms frames."""
    channel_masks: int = Field(2, ge=0, le=10)
    """Masks over neighbouring channels in training."""
    channel_mask_share: float = Field(0.12, ge=0, le=1)
    """Widest channel mask, as a share of the encoder's width."""


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
