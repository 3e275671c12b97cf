"""Where a CTC model's output frames lie in time, from the layers that shorten its input; families of transformers.

Positions follow a stack of strided windows, as receptive fields do (Araujo, Norris & Sim, "Computing receptive
fields of convolutional neural networks", Distill 2019): the first output of a layer is centred (K − 1)/2 − P steps
of its input after that input's first, and its steps are S times as long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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


KALDI_WINDOW = Layer(SAMPLE_RATE * 25 // 1000, SAMPLE_RATE // 100)
"""25 ms every 10 ms, not padded."""


@dataclass(frozen=True)
class Family:
    """Frames of a family of models, and whether padding changes posteriors."""

    geometry: Callable[[Any, Any], FrameGeometry]
    """From configuration and feature extractor."""
    masks_padding: Callable[[Any], bool] = lambda config: False
    """By configuration: whether, with an attention mask, padding leaves an utterance's posteriors as they are."""


def _convolutional(config: Any, extractor: Any) -> FrameGeometry:
    return FrameGeometry((*strided(config.conv_kernel, config.conv_stride), *_adapter(config, padding=1)))


def _adapter(config: Any, padding: int) -> tuple[Layer, ...]:
    """Layers that some fine-tuned models put on top to make frames longer."""
    if not getattr(config, "add_adapter", False):
        return ()
    return (Layer(config.adapter_kernel_size, config.adapter_stride, padding),) * config.num_adapter_layers


def _normalises_frames(config: Any) -> bool:
    """Not with a group norm, whose mean runs over padding too, nor where a layer mixes frames after the mask."""
    return (
        config.feat_extract_norm == "layer"
        and not getattr(config, "add_adapter", False)
        and not getattr(config, "conv_pos_batch_norm", False)
    )


def _wav2vec2_bert(config: Any, extractor: Any) -> FrameGeometry:
    stacked = Layer(extractor.stride, extractor.stride)
    return FrameGeometry((KALDI_WINDOW, stacked, *_adapter(config, padding=config.adapter_kernel_size // 2)))


def _parakeet(config: Any, extractor: Any) -> FrameGeometry:
    encoder = config.encoder_config
    # The spectrogram is centred, so frame i lies at i hops; of its 1 + S/hop frames the last is masked.
    spectrogram = Layer(extractor.n_fft, extractor.hop_length, extractor.n_fft // 2)
    kernel, stride = encoder.subsampling_conv_kernel_size, encoder.subsampling_conv_stride
    layers = encoder.subsampling_factor.bit_length() - 1
    shorten = (Layer(kernel, stride, (kernel - 1) // 2),) * layers
    return FrameGeometry((spectrogram, *shorten), counted_padding=extractor.n_fft - extractor.hop_length)


def _lasr(config: Any, extractor: Any) -> FrameGeometry:
    encoder = config.encoder_config
    shorten = (Layer(encoder.subsampling_conv_kernel_size, encoder.subsampling_conv_stride),) * 2
    return FrameGeometry((Layer(extractor.win_length, extractor.hop_length), *shorten))


FAMILIES = {
    "wav2vec2": Family(_convolutional, _normalises_frames),
    "hubert": Family(_convolutional, _normalises_frames),
    "wavlm": Family(_convolutional, _normalises_frames),
    # Its five positional convolutions follow each other without a mask in between.
    "data2vec-audio": Family(_convolutional),
    "wav2vec2-conformer": Family(_convolutional),
    "unispeech": Family(_convolutional, _normalises_frames),
    "unispeech-sat": Family(_convolutional, _normalises_frames),
    "sew": Family(_convolutional),
    "sew-d": Family(_convolutional),
    "wav2vec2-bert": Family(_wav2vec2_bert, lambda config: not getattr(config, "add_adapter", False)),
    "parakeet_ctc": Family(_parakeet, lambda config: True),
    "lasr_ctc": Family(_lasr),
}
"""By `model_type`. Every family here is tested against the library's own forward pass."""
