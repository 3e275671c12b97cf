"""Speech encoders of transformers: outputs of all their layers for one waveform of any length.

Waveforms go through the repository's own feature extractor; Whisper's without its padding to 30 s.

Shapes: S samples, T encoder frames, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr_kd.audio import SAMPLE_RATE
from asr_kd.config import user_path
from asr_kd.errors import RecipeError
from asr_kd.features.fbank import NUM_MEL_BINS, num_frames
from asr_kd.models.layers import FRAME_OFFSET_MS, FRAME_SHIFT_MS, output_len
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import LAYERS_ONLY, arithmetic, with_precision
from asr_kd.teachers.encoder_ctc import paired_layers
from asr_kd.teachers.frame_geometry import FAMILIES, FrameGeometry, Layer
from asr_kd.teachers.huggingface_ctc import CONFIG, open_encoder_files
from asr_kd.teachers.settings import EncoderSettings, Precision, find_model, parse_source
from asr_kd.teachers.windows import kept_frames, plan_windows
from asr_kd.text.vocabulary import BLANK, Vocabulary

WHISPER = "whisper"
ENCODERS = (WHISPER, "wav2vec2", "hubert", "wavlm", "wav2vec2-bert")
"""Families by `model_type`. Each is tested against the library's own forward pass."""

SHORTEST_SAMPLES = SAMPLE_RATE // 10
"""Shorter audio is followed by silence: no convolution is then longer than its input."""


class HuggingfaceEncoder:
    """An encoder of transformers: its name, the SHA-256 of weights and configuration, layers, width, and frames.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: files are missing or damaged, or only a pickle is there.
        RecipeError: a family whose layers are not read here, more mel bins than 80, another sample rate, or windows
            that the encoder cannot have.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        _, place, revision = parse_source(settings.source)
        files = open_encoder_files(local_copy(place), revision)
        self.name, self.sha256, self._extractor, self._config = files.name, files.sha256, files.extractor, files.config
        self.family = files.config.model_type
        _check(self.family, files.config, files.extractor, files.name)
        self.model: nn.Module = files.model.encoder if self.family == WHISPER else files.model
        self._layers = self.model.layers if self.family == WHISPER else self.model.encoder.layers
        self.num_layers, self.width = len(self._layers), int(files.config.hidden_size)
        geometry = _geometry(self.family, files.config, files.extractor)
        self.frame_shift_ms, self.frame_offset_ms = geometry.shift_ms, geometry.offset_ms
        self._grid = geometry.stride_samples
        self._window = self._samples(settings.window_seconds)
        self._overlap = self._samples(settings.overlap_seconds)
        self._check_window(settings)

    def layer(self, number: int) -> nn.Module:
        """Layer `number`, counted from 1; the last one with the LayerNorm that follows it where there is one."""
        layer: nn.Module = self._layers[number - 1]
        stack: Any = self.model if self.family == WHISPER else self.model.encoder
        # In wav2vec 2.0's first form the encoder's LayerNorm comes before its layers.
        follows = self.family == WHISPER or bool(getattr(self._config, "do_stable_layer_norm", False))
        return nn.ModuleList([layer, stack.layer_norm]) if number == self.num_layers and follows else layer

    def use_plain_attention(self) -> None:
        """Compute attention as matrix products: on a CPU torch's fused form is slow, most of all backward in bf16."""
        model: Any = self.model
        model.set_attn_implementation("eager")

    @property
    def runs_in_parts(self) -> bool:
        """Whether it has `lower` and `upper`: layers of other families read more than the output of the one below."""
        return self.family == WHISPER

    def hidden(self, waveform: Tensor) -> Sequence[Tensor]:
        """Outputs of all layers, [T, D] each, of one waveform [S]."""
        return self.in_windows(waveform, self._hidden)

    def in_windows(self, waveform: Tensor, encode: Callable[[Tensor], Sequence[Tensor]]) -> Sequence[Tensor]:
        """What `encode` makes of a waveform [S], sequences of T frames; longer audio is encoded in windows."""
        waveform = F.pad(waveform, (0, max(SHORTEST_SAMPLES - waveform.shape[0], 0)))
        windows = plan_windows(waveform.shape[0], self._window, self._overlap, self._grid)
        if len(windows) == 1:
            return encode(waveform)
        kept = kept_frames(windows, self._overlap, self._grid, self.frame_shift_ms, self.frame_offset_ms)
        pieces = [
            [output[first:last] for output in encode(waveform[window.start : window.stop])]
            for window, (first, last) in zip(windows, kept, strict=True)
        ]
        return [torch.cat(parts) for parts in zip(*pieces, strict=True)]

    def lower(self, window: Tensor, count: int) -> list[Tensor]:
        """The input of the first layer and the outputs of the first `count`, [T, D] each, of at most a window [S]."""
        model: Any = self.model
        mel = self.inputs(window)["input_features"].to(next(model.parameters()).device)
        hidden = F.gelu(model.conv2(F.gelu(model.conv1(mel)))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight[: hidden.shape[1]]
        return [hidden[0], *self._continue(hidden, 0, count)]

    def upper(self, hidden: Tensor, first: int) -> list[Tensor]:
        """Outputs of the layers above `first`, [T, D] each, from that layer's output [T, D]."""
        return self._continue(hidden.unsqueeze(0), first, self.num_layers)

    def inputs(self, waveform: Tensor) -> Mapping[str, Tensor]:
        """What the repository's feature extractor makes of one waveform [S]; `input_features` [1, 80, T'] of Whisper.

        A spectrum of every 10 ms of it, without padding to 30 s.
        """
        options = {"padding": False, "truncation": False} if self.family == WHISPER else {}
        with torch.autocast("cpu", enabled=False):  # torch's spectrogram would be in bf16, which NumPy does not have
            given: Mapping[str, Tensor] = self._extractor(
                waveform.detach().cpu().float().numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt", **options
            )
        return given

    def _hidden(self, waveform: Tensor) -> list[Tensor]:
        if self.family == WHISPER:
            return self.lower(waveform, self.num_layers)[1:]
        device = next(self.model.parameters()).device
        given = {key: value.to(device) for key, value in self.inputs(waveform).items()}
        outputs = self.model(**given, output_hidden_states=True).hidden_states
        return [output[0] for output in outputs[1:]]

    def _continue(self, hidden: Tensor, first: int, last: int) -> list[Tensor]:
        """As `WhisperEncoder.forward`, which takes 30 s only: hidden [1, T, D] of any length up to that."""
        outputs = []
        for layer in self._layers[first:last]:
            given = layer(hidden, None)
            hidden = given[0] if isinstance(given, tuple) else given
            outputs.append(hidden[0])
        if last == self.num_layers and outputs:
            norm: Any = self.model.layer_norm
            outputs[-1] = norm(outputs[-1])
        return outputs

    def _samples(self, seconds: float) -> int:
        """On the encoder's own grid, at most so long."""
        return int(seconds * SAMPLE_RATE) // self._grid * self._grid

    def _check_window(self, settings: EncoderSettings) -> None:
        if not self._overlap:  # most convolutions have no frame around a border without common audio
            raise RecipeError(
                f"overlap_seconds is {settings.overlap_seconds:g}",
                where=self.name,
                expected=f"at least one frame of the encoder, {self._grid / SAMPLE_RATE:g} s",
            )
        if self.family != WHISPER:
            return
        longest = self._config.max_source_positions * self._grid / SAMPLE_RATE
        if settings.window_seconds > longest:
            raise RecipeError(
                f"encoder.window_seconds is {settings.window_seconds:g}",
                where=self.name,
                expected=f"at most {longest:g} s, where its positions end",
                remedy="Longer audio is encoded in windows; leave window_seconds out",
            )


def local_copy(place: str) -> str:
    """The folder of `ASR_KD_MODELS` that a repository is in, or the place itself."""
    found = None if user_path(place).is_dir() else find_model([place.rpartition("/")[2]], CONFIG)
    return place if found is None else str(found)


def _check(family: str, config: Any, extractor: Any, name: str) -> None:
    if family not in ENCODERS:
        raise RecipeError(f"is a {family!r} model", where=name, expected=f"one of {', '.join(ENCODERS)}")
    if extractor.sampling_rate != SAMPLE_RATE:
        raise RecipeError(f"was trained on {extractor.sampling_rate} Hz", where=name, expected=f"{SAMPLE_RATE} Hz")
    if family == WHISPER and config.num_mel_bins != NUM_MEL_BINS:
        raise RecipeError(
            f"has {config.num_mel_bins} mel bins",
            where=name,
            expected=f"a Whisper of {NUM_MEL_BINS} mel bins",
            remedy="Take tiny, base, small, medium or large-v2; large-v3 and turbo have 128",
        )


def _geometry(family: str, config: Any, extractor: Any) -> FrameGeometry:
    if family != WHISPER:
        return FAMILIES[family].geometry(config, extractor)
    spectrogram = Layer(extractor.n_fft, extractor.hop_length, extractor.n_fft // 2)
    counted = extractor.n_fft - extractor.hop_length
    return FrameGeometry((spectrogram, Layer(3, 1, 1), Layer(3, 2, 1)), counted_padding=counted)


class EncoderLayers:
    """An encoder of transformers; see `teachers.base.LayeredTeacher` for what its members mean.

    Its vocabulary is the blank alone, and every frame is blank with certainty.

    Raises:
        AsrKdError: see `HuggingfaceEncoder`.
    """

    def __init__(
        self, settings: EncoderSettings, device: torch.device | str = "cpu", precision: Precision = "fp32"
    ) -> None:
        self._encoder = HuggingfaceEncoder(settings)
        self._encoder.model.to(device).eval().requires_grad_(False)
        self._device, self._precision = torch.device(device), precision
        self.name, self.sha256 = self._encoder.name, with_precision(self._encoder.sha256, precision)
        self.vocabulary = Vocabulary((BLANK,))
        self.frame_shift_ms, self.frame_offset_ms = float(FRAME_SHIFT_MS), float(FRAME_OFFSET_MS)
        self.features: Mapping[str, Any] = {
            "kind": LAYERS_ONLY,
            "encoder": self._encoder.name,
            "window_seconds": settings.window_seconds,
            "overlap_seconds": settings.overlap_seconds,
        }
        self.num_layers, self.width = self._encoder.num_layers, self._encoder.width

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Zeros, [B, T, 1], and lengths [B] of waveforms [B, S]; the encoder does not run."""
        lens = torch.tensor([output_len(num_frames(samples)) for samples in sample_lens.tolist()])
        return DensePosteriors(torch.zeros(len(lens), int(lens.max()) if len(lens) else 0, 1), lens)

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """The same, and the outputs of these layers, [B, T, D] each, layer-normalised, pairs of frames averaged."""
        dense = self.log_probs(waveforms, sample_lens)
        if not layers:
            return dense, {}
        with torch.inference_mode(), arithmetic(self._precision, self._device):
            rows = [
                paired_layers(self._encoder, waveform[:length], max(frames, 1), layers)[:frames].float().mean(1)
                for waveform, length, frames in zip(waveforms, sample_lens.tolist(), dense.lens.tolist(), strict=True)
            ]
        hidden = pad_sequence(rows, batch_first=True)  # [B, T, L, D]
        return dense, {number: hidden[:, :, index] for index, number in enumerate(layers)}
