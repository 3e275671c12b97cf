"""Settings of a soft-target store and of its extraction, and the variants of an utterance that it holds."""

import re
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from pydantic import Field, field_validator
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.features.augment import Sound, augment_waveform, speed_perturb
from asr_kd.features.perturb import generator_for
from asr_kd.targets.packing import Codec


class Variant(NamedTuple):
    """An augmented copy of an utterance."""

    speed: float
    version: str = ""
    """Name of a perturbation; empty: as it was recorded."""
    sound: Sound | None = None
    """Its settings."""

    @property
    def name(self) -> str:
        """The key of its targets beside the utterance's id: ``speed-0.9``, ``speed-0.9-noisy``."""
        return variant_name(self.speed, self.version)

    @property
    def words(self) -> str:
        """Description for messages."""
        return f"at speed {self.speed:g}" + (f", {self.version}" if self.version else "")

    def apply(self, waveform: Tensor, utterance_id: str) -> Tensor:
        """Return a recorded waveform [S] in this variant; random draws depend on the id and the variant alone."""
        changed = speed_perturb(waveform, self.speed)
        if self.sound is None:
            return changed
        return augment_waveform(changed, self.sound, generator_for(utterance_id, self.name), lambda generator: ())


def variant_name(speed: float, version: str = "") -> str:
    """Return the name of a variant, see `Variant.name`."""
    return f"speed-{float(speed)!r}" + (f"-{version}" if version else "")


def variant_of(speed: float, version: str, sounds: Mapping[str, Sound]) -> Variant:
    """A variant by name.

    Raises:
        KeyError: there is no augmentation of that name.
    """
    return Variant(speed, version, sounds[version] if version else None)


VERSION = re.compile(r"[a-z0-9_]{1,40}")


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
    """Settings of a soft-target store and of its extraction; all but the last decide what is stored."""

    epsilon: float = Field(default=0.005, ge=0.0, le=0.5)
    """Entries of a frame are kept until at most this mass is outside (ε)."""
    max_entries: int = Field(default=8, ge=1, le=15)
    """Most entries a frame (k)."""
    certain_blank: float = Field(default=0.005, ge=0.0, le=0.1)
    """Frames with at least 1 − this on blank are kept as runs, without their entries (δ)."""
    levels: int = Field(default=24, ge=4, le=255)
    """Steps in which a share of a frame is kept, as an angle from 0 to 90 degrees; see `packing`."""
    speeds: tuple[float, ...] = (1.0,)
    """Speed variants, each with its own targets; training draws from the same speeds."""
    perturbed: dict[str, Sound] = Field(default={})
    """Augmented copies by name: each utterance (at each speed) with noise, in a room, over a telephone or at another
    level, drawn once by utterance and variant; noise is pink. Students train on the same audio where
    `train.augmentation.augmented_copies` names it."""
    pooled: bool = False
    """Also keep posteriors pooled over each token of the transcript; done anyway when a student here needs them."""
    layers: tuple[int, ...] = ()
    """Also keep these hidden layers of the teacher, counted from 1, with 8 bits a channel: many times the posteriors'
    size. Done anyway for those that a student here needs; teachers of this project only."""
    fidelity_utterances: int = Field(default=32, ge=1)
    """Sample of the fidelity report."""

    @field_validator("speeds")
    @classmethod
    def _speeds(cls, speeds: tuple[float, ...]) -> tuple[float, ...]:
        if not speeds or len(set(speeds)) != len(speeds) or not all(0.5 <= speed <= 2.0 for speed in speeds):
            raise ValueError("speeds must be different numbers from 0.5 to 2, at least one")
        return speeds

    @field_validator("perturbed")
    @classmethod
    def _version_names(cls, perturbed: dict[str, Sound]) -> dict[str, Sound]:
        wrong = [name for name in perturbed if not VERSION.fullmatch(name)]
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
        """The variants: as recorded at each speed, then each perturbation at each speed."""
        return tuple(
            variant_of(speed, version, self.perturbed) for version in ("", *self.perturbed) for speed in self.speeds
        )

    def codec(self, vocab_size: int, blank_id: int) -> Codec:
        return Codec(vocab_size, blank_id, self.max_entries, self.certain_blank, self.levels)
