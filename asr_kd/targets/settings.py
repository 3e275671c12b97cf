"""Settings of a soft-target store and of its extraction, and the variants of an utterance that it holds."""

import re
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.features.augment import WaveformAugmentation, augment_waveform, speed_perturb
from asr_kd.features.perturb import generator_for
from asr_kd.targets.packing import Codec


class Variant(NamedTuple):
    """An utterance at one speed, as recorded or as an augmented copy."""

    speed: float
    augmented_copy: str = ""
    """Name of the augmented copy (`targets.perturbed`); empty: as recorded."""
    augmentation: WaveformAugmentation | None = None
    """Settings of the augmented copy."""

    @property
    def name(self) -> str:
        """The key of its targets beside the utterance's id: ``speed-0.9``, ``speed-0.9-noisy``."""
        return variant_name(self.speed, self.augmented_copy)

    @property
    def words(self) -> str:
        """Description for messages."""
        return f"at speed {self.speed:g}" + (f", {self.augmented_copy}" if self.augmented_copy else "")

    def apply(self, waveform: Tensor, utterance_id: str) -> Tensor:
        """Return a recorded waveform [S] in this variant; random draws depend on the id and the variant alone."""
        changed = speed_perturb(waveform, self.speed)
        if self.augmentation is None:
            return changed
        generator = generator_for(utterance_id, self.name)
        return augment_waveform(changed, self.augmentation, generator, lambda generator: ())


def variant_name(speed: float, augmented_copy: str = "") -> str:
    """Return the name of a variant, see `Variant.name`."""
    return f"speed-{float(speed)!r}" + (f"-{augmented_copy}" if augmented_copy else "")


def variant_of(speed: float, augmented_copy: str, augmentations: Mapping[str, WaveformAugmentation]) -> Variant:
    """Return a variant, with the settings of its augmented copy.

    Raises:
        KeyError: there is no augmented copy of that name.
    """
    return Variant(speed, augmented_copy, augmentations[augmented_copy] if augmented_copy else None)


COPY_NAME = re.compile(r"[a-z0-9_]{1,40}")


class ShardSettings(Settings):
    """Division of the work of an extraction; changes no result."""

    no_effect: ClassVar[frozenset[str]] = frozenset({"max_quarantine_share"})

    shard_seconds: float = Field(default=1800.0, gt=0.0)
    """Audio in a shard: an interruption loses at most one shard."""
    batch_seconds: float = Field(default=60.0, gt=0.0)
    """Audio in one batch of the teacher, padding included."""
    readers: int = Field(default=4, ge=0, le=64)
    """Threads that read audio ahead while the device computes; 0 reads in between."""
    max_quarantine_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the utterances that may be unusable before extraction stops."""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants of each utterance: as recorded."""
        return (Variant(1.0),)

    def seconds(self, utterance: Utterance) -> float:
        """Audio of an utterance over all its variants."""
        return sum(utterance.duration / variant.speed for variant in self.variants)


class TargetSettings(ShardSettings):
    """Settings of a soft-target store and of its extraction."""

    epsilon: float = Field(default=0.005, ge=0.0, le=0.5)
    """The most probable entries of a frame are kept until at most this probability is outside (ε)."""
    max_entries: int = Field(default=8, ge=1, le=15)
    """Largest number of entries of a frame (k)."""
    certain_blank: float = Field(default=0.005, ge=0.0, le=0.1)
    """Frames whose blank has a probability of at least 1 − this are kept as runs, without their entries (δ)."""
    levels: int = Field(default=24, ge=4, le=255)
    """Steps in which a share of a frame is kept, as an angle from 0 to 90 degrees; see `packing`."""
    speeds: tuple[float, ...] = (1.0,)
    """Speed variants, each with its own targets; training draws from the same speeds."""
    perturbed: dict[str, WaveformAugmentation] = Field(default={})
    """Augmented copies by name: each utterance (at each speed) with noise, in a room, over a telephone or at another
    level, drawn once by utterance and variant; noise is pink. Students train on the same audio where
    `train.augmentation.augmented_copies` names it."""
    pooled: bool = False
    """Also keep posteriors pooled over each token of the transcript; always done when a student of the recipe needs
    them."""
    layers: tuple[int, ...] = ()
    """Also keep these hidden layers of the teacher, counted from 1, with 8 bits a channel: many times the posteriors'
    size. Always done for those that a student of the recipe needs. Teachers trained here, `local:` and `encoder:`
    only."""
    fidelity_utterances: int = Field(default=32, ge=1)
    """Utterances of the sample that the fidelity is measured on."""

    @field_validator("speeds")
    @classmethod
    def _speeds(cls, speeds: tuple[float, ...]) -> tuple[float, ...]:
        if not speeds or len(set(speeds)) != len(speeds) or not all(0.5 <= speed <= 2.0 for speed in speeds):
            raise ValueError("speeds must be different numbers from 0.5 to 2, at least one")
        return speeds

    @field_validator("perturbed")
    @classmethod
    def _copy_names(cls, perturbed: dict[str, WaveformAugmentation]) -> dict[str, WaveformAugmentation]:
        wrong = [name for name in perturbed if not COPY_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"the name {wrong[0]!r} must be small letters, digits and '_'")
        return perturbed

    @field_validator("layers")
    @classmethod
    def _layers(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if any(layer < 1 for layer in layers):
            raise ValueError("layers are counted from 1")
        return tuple(sorted(set(layers)))

    @property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self.variants)

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The variants: as recorded at each speed, then each augmented copy at each speed."""
        return tuple(variant_of(speed, name, self.perturbed) for name in ("", *self.perturbed) for speed in self.speeds)

    def codec(self, vocab_size: int, blank_id: int) -> Codec:
        return Codec(vocab_size, blank_id, self.max_entries, self.certain_blank, self.levels)
