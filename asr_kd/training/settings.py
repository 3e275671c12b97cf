"""Settings of a training run."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings, UserPath
from asr_kd.features.augment import Augmentation


class EmaSettings(Settings):
    """Exponential moving average of the weights: evaluated on dev, saved each epoch, averaged at the end."""

    decay: float = Field(0.999, gt=0, lt=1)
    """Decay of the average per step: 0.999 averages over about 1,000 steps. After n steps it is at most
    (1 + n) / (10 + n)."""


class TrainSettings(Settings):
    """Settings of training. Defaults suit a few hours of speech."""

    no_effect: ClassVar[frozenset[str]] = frozenset(
        {"max_bad_share", "max_nonfinite_steps", "checkpoint_minutes", "feature_cache_mb", "workers"}
    )

    epochs: int = Field(50, ge=0)
    """Epochs of training; 0: the weights of `init_from` as they are, scored on the dev set."""
    batch_seconds: float = Field(16.0, gt=0)
    """Audio in a batch, padding to the longest utterance counted, over all processes. Small batches leave CTC's blank
    plateau sooner."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak, reached after the warm-up."""
    warmup_epochs: float = Field(3.0, ge=0)
    """Epochs in which the learning rate rises to its peak."""
    final_rate_share: float = Field(0.02, ge=0, le=1)
    """The rate decays along a cosine to this share of the peak."""
    layers_rate: float = Field(1.0, ge=0, le=1)
    """Learning rate of everything below the output layer, as a share of `learning_rate`; 0 trains the output layer
    alone."""
    adopted_rate: float = Field(1.0, ge=0, le=1)
    """Further factor for the weights that a model with `init` took from Whisper: their learning rate is `layers_rate` ×
    `adopted_rate` × `learning_rate`. New parts below the output layer have `layers_rate` alone."""
    frozen_epochs: int = Field(0, ge=0)
    """First epochs, in which only the output layer is trained."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW, on matrices only."""
    clip_norm: float = Field(5.0, gt=0)
    """Largest L2 norm of the gradient of all parameters together; a longer one is scaled down to it."""
    inner_layers: tuple[int, ...] = ()
    """Layers, counted from 1, on which the loss is also computed, through the same output layer (InterCTC, Lee &
    Watanabe 2021)."""
    inner_weight: float = Field(0.3, ge=0, lt=1)
    """Share of the mean loss of the inner layers in the loss, when there are any."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Arithmetic of the forward pass: bfloat16 where that is safe, or float32 throughout."""
    augmentation: Augmentation = Augmentation()
    """Augmentation of training utterances."""
    average_best: int = Field(5, ge=1, le=100)
    """Number of epochs, the best on the dev set, whose mean is the final weights."""
    ema: EmaSettings | None = None
    """Moving average of the weights, which is evaluated and saved instead of them; None: no average."""
    layer_drop: float = Field(0.0, ge=0, lt=1)
    """Probability of skipping the last layer for an utterance in training; lower for the others, in proportion to
    their depth (stochastic depth, Huang et al. 2016)."""
    random_chunk_offset: bool = True
    """Shorten the first chunk of an utterance by a random number of frames, drawn each time, so that the model does
    not depend on where in a chunk the speech begins. Has no effect on models with full context."""
    curriculum_epochs: int = Field(0, ge=0)
    """Number of first epochs whose batches are sorted by length (SortaGrad, Amodei et al. 2016)."""
    validate_every_epochs: int = Field(1, ge=1)
    """Epochs between two evaluations on the dev set."""
    max_nonfinite_steps: int = Field(5, ge=0)
    """Largest number of steps in a row whose loss or gradient is not finite; with more, training stops."""
    max_bad_share: float = Field(0.01, ge=0, le=1)
    """Largest share of the training utterances that cannot be read; above it, training stops."""
    checkpoint_minutes: float = Field(5.0, ge=0)
    """Minutes between checkpoints."""
    feature_cache_mb: int = Field(2048, ge=0)
    """Memory for features and decoded soft targets, in each process or in each of its `workers`; the dev set has as
    much. What does not fit is computed again in each epoch."""
    workers: int = Field(0, ge=0, le=64)
    """Processes that read ahead for each training process, each with a cache of its own; 0: the training process reads
    itself, which suits a corpus that fits into the cache."""
    init_from: UserPath | Annotated[tuple[UserPath, ...], Field(min_length=1)] | None = None
    """Warm start: a model folder of the same shape (see `init_layers`) and vocabulary, or `hf:USER/NAME[@REVISION]`;
    for example to adapt a student to another domain. Several: the mean of their weights (Wortsman et al. 2022), for
    models that were trained further from the same weights. None starts from random weights."""
    init_head: bool = True
    """Also copy the output layer; with `false` the vocabulary may differ."""
    init_layers: tuple[int, ...] = ()
    """For each layer of this model the layer of `init_from`, counted from 1, that it is copied from; for a shallower
    student of the teacher's width. Empty: all layers in order."""

    @field_validator("init_layers")
    @classmethod
    def _layers_count_from_one(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if any(layer < 1 for layer in layers):
            raise ValueError("layers are counted from 1")
        return layers

    @model_validator(mode="after")
    def _layers_of_a_model(self) -> "TrainSettings":
        if self.init_layers and not self.init_models:
            raise ValueError("init_layers are layers of the model that init_from names")
        if self.epochs == 0 and not self.init_models:
            raise ValueError("epochs: 0 leaves random weights; name a model in init_from, or train for some epochs")
        return self

    @property
    def init_models(self) -> tuple[Path, ...]:
        """Model folders of the warm start; empty without one."""
        if self.init_from is None:
            return ()
        return self.init_from if isinstance(self.init_from, tuple) else (self.init_from,)
