"""Families of CTC models in transformers: where their frames lie, and which of them padding leaves alone.

Reads configurations only; imports nothing of transformers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asr_kd.audio import SAMPLE_RATE
from asr_kd.teachers.geometry import FrameGeometry, Layer, strided

KALDI_WINDOW = Layer(SAMPLE_RATE * 25 // 1000, SAMPLE_RATE // 100)
"""25 ms every 10 ms, not padded."""


@dataclass(frozen=True)
class Family:
    """What must be known of a family of models."""

    geometry: Callable[[Any, Any], FrameGeometry]
    """From configuration and feature extractor."""
    masks_padding: Callable[[Any], bool]
    """Whether, with an attention mask, an utterance's posteriors are the same alone and in a padded batch."""


def _never(config: Any) -> bool:
    return False


# -- over waveforms: wav2vec2 and its kin ----------------------------------------------------------------


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


# -- over filter banks -----------------------------------------------------------------------------------


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


def _without_adapter(config: Any) -> bool:
    return not getattr(config, "add_adapter", False)


def _always(config: Any) -> bool:
    return True


FAMILIES = {
    "wav2vec2": Family(_convolutional, _normalises_frames),
    "hubert": Family(_convolutional, _normalises_frames),
    "wavlm": Family(_convolutional, _normalises_frames),
    # Its five positional convolutions follow each other without a mask in between.
    "data2vec-audio": Family(_convolutional, _never),
    "wav2vec2-conformer": Family(_convolutional, _never),
    "unispeech": Family(_convolutional, _normalises_frames),
    "unispeech-sat": Family(_convolutional, _normalises_frames),
    "sew": Family(_convolutional, _never),
    "sew-d": Family(_convolutional, _never),
    "wav2vec2-bert": Family(_wav2vec2_bert, _without_adapter),
    "parakeet_ctc": Family(_parakeet, _always),
    "lasr_ctc": Family(_lasr, _never),
}
"""By `model_type`. Every family here is tested against the library's own forward pass."""
