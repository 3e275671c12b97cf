"""Where a model's output frames lie in time, from the layers that shorten its input. Knows no model.

Positions follow a stack of strided windows, as receptive fields do (Araujo, Norris & Sim, "Computing receptive
fields of convolutional neural networks", Distill 2019): the first output of a layer is centred (K − 1)/2 − P steps
of its input after that input's first, and its steps are S times as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from asr_kd.audio import SAMPLE_RATE


class Layer(NamedTuple):
    """A window that moves over time: a convolution, or the window of a spectrogram."""

    kernel: int
    stride: int
    padding: int = 0
    """Of each end."""


@dataclass(frozen=True)
class FrameGeometry:
    """Frames of a stack of layers over 16 kHz samples.

    Args:
        layers: from the waveform upwards; those that keep the number of frames may be left out.
        counted_padding: what the model's own frame counts take for the first layer's padding of both ends together,
            where that is not twice `padding` (a spectrogram that drops its last frame).
    """

    layers: tuple[Layer, ...]
    counted_padding: int | None = None

    @property
    def stride_samples(self) -> int:
        """Samples from one frame to the next."""
        samples = 1
        for layer in self.layers:
            samples *= layer.stride
        return samples

    @property
    def shift_ms(self) -> float:
        """Time from one frame to the next."""
        return 1000.0 * self.stride_samples / SAMPLE_RATE

    @property
    def offset_ms(self) -> float:
        """Centre of frame 0 after the start of the audio; a sample lasts, so its own centre lies half of it later."""
        centre, step = 0.5, 1
        for layer in self.layers:
            centre += ((layer.kernel - 1) / 2 - layer.padding) * step
            step *= layer.stride
        return 1000.0 * centre / SAMPLE_RATE

    def frames(self, num_samples: int) -> int:
        """Output frames of so many samples; 0 where any layer has less than its window."""
        count = num_samples
        for index, layer in enumerate(self.layers):
            padding = 2 * layer.padding
            if index == 0 and self.counted_padding is not None:
                padding = self.counted_padding
            count = (count + padding - layer.kernel) // layer.stride + 1
            if count <= 0:
                return 0
        return count


def strided(kernels: Sequence[int], strides: Sequence[int]) -> tuple[Layer, ...]:
    """Unpadded layers from the two lists in which configurations give them."""
    return tuple(Layer(kernel, stride) for kernel, stride in zip(kernels, strides, strict=True))
