"""The variants of an utterance that a teacher labels and a student trains on: which sound each is, to the sample.

Knows speeds and perturbations, no teacher and no store.
"""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from asr_kd.features.augment import speed_perturb
from asr_kd.features.perturb import generator_for
from asr_kd.features.waveform_augment import Sound, augment_waveform


class Variant(NamedTuple):
    """One way to hear an utterance."""

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
        """How people call it."""
        return f"at speed {self.speed:g}" + (f", {self.version}" if self.version else "")

    def hear(self, waveform: Tensor, utterance_id: str) -> Tensor:
        """A recorded waveform [S] in this variant; what is drawn depends on the id and the variant alone."""
        heard = speed_perturb(waveform, self.speed)
        if self.sound is None:
            return heard
        return augment_waveform(heard, self.sound, generator_for(utterance_id, self.name), lambda generator: ())


def variant_name(speed: float, version: str = "") -> str:
    """What a variant is called, see `Variant.name`."""
    return f"speed-{float(speed)!r}" + (f"-{version}" if version else "")


def variant_of(speed: float, version: str, sounds: Mapping[str, Sound]) -> Variant:
    """A variant by name.

    Raises:
        KeyError: nobody said what that version sounds like.
    """
    return Variant(speed, version, sounds[version] if version else None)
