"""Augmented copies of an utterance that a teacher labels and a student trains on, equal to the sample."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from asr_kd.features.augment import speed_perturb
from asr_kd.features.perturb import generator_for
from asr_kd.features.waveform_augment import Sound, augment_waveform


class Variant(NamedTuple):
    """An augmented copy of an utterance."""

    speed: float
    version: str = ""
    """Name of a perturbation; empty: as it was recorded."""
    sound: Sound | None = None
    """What that is."""

    @property
    def name(self) -> str:
        """The key of its targets beside the utterance's id: ``speed-0.9``, ``speed-0.9-noisy``."""
        return variant_name(self.speed, self.version)

    @property
    def words(self) -> str:
        """Description for messages."""
        return f"at speed {self.speed:g}" + (f", {self.version}" if self.version else "")

    def apply(self, waveform: Tensor, utterance_id: str) -> Tensor:
        """A recorded waveform [S] in this variant; what is drawn depends on the id and the variant alone."""
        changed = speed_perturb(waveform, self.speed)
        if self.sound is None:
            return changed
        return augment_waveform(changed, self.sound, generator_for(utterance_id, self.name), lambda generator: ())


def variant_name(speed: float, version: str = "") -> str:
    """What a variant is called, see `Variant.name`."""
    return f"speed-{float(speed)!r}" + (f"-{version}" if version else "")


def variant_of(speed: float, version: str, sounds: Mapping[str, Sound]) -> Variant:
    """A variant by name.

    Raises:
        KeyError: there is no augmentation of that name.
    """
    return Variant(speed, version, sounds[version] if version else None)
