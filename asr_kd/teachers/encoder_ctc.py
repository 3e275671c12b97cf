"""A public speech encoder with a CTC head, on the frame grid of this project's own models.

The encoder's frames (20 ms in most families) are put on the students' grid of 40 ms in pairs, so that posteriors,
layers and n-best of this teacher need no further alignment. Each utterance is encoded alone: what other utterances a
batch holds never changes it. In training, outputs of a frozen encoder are kept in float16 by the content of the audio.

Shapes: B utterances, S samples, T feature frames of 10 ms, T' = output_lens(T) frames of 40 ms, L layers, D width of
the encoder.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.features.fbank import FRAME_SHIFT_SAMPLES, num_frames
from asr_kd.features.perturb import change_gain
from asr_kd.features.silence import FrameFeatures, quietest
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.layers import FRAME_OFFSET_MS, FRAME_SHIFT_MS, output_lens
from asr_kd.models.settings import Context
from asr_kd.teachers.ctc_head import CtcHead, draw_masks
from asr_kd.teachers.settings import EncoderCtcSettings

if TYPE_CHECKING:
    from asr_kd.teachers.huggingface_encoder import HuggingfaceEncoder


def waveform_blocks(waveform: Tensor) -> Tensor:
    """A waveform [S] as rows of 10 ms, [T, 160], with as many rows as the same audio has feature frames."""
    frames = num_frames(waveform.shape[0])
    length = frames * FRAME_SHIFT_SAMPLES
    return F.pad(waveform[:length], (0, max(length - waveform.shape[0], 0))).view(frames, FRAME_SHIFT_SAMPLES)


def _background(blocks: Tensor, frames: int, generator: torch.Generator) -> Tensor:
    """White noise as loud as the quietest blocks: blocks in random order would click."""
    level = blocks[quietest(blocks.square().mean(1))].square().mean().sqrt() if len(blocks) else torch.zeros(())
    return level * torch.randn(frames, FRAME_SHIFT_SAMPLES, generator=generator)


WAVEFORM_BLOCKS = FrameFeatures(waveform_blocks, change_gain, torch.add, 0.0, _background)
"""Samples themselves, in blocks of 10 ms."""


LARGEST = torch.finfo(torch.float16).max
"""Larger outputs, which a large Whisper may have before its last LayerNorm, are cut as transformers does in float16."""


class OutputCache:
    """Outputs of frozen layers in float16 on the CPU, by audio and layers, until the memory is full.

    What does not fit is rounded to float16 as well, so that results do not depend on the memory. A copy of a model
    shares the cache of the original.
    """

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes
        self._kept: dict[tuple[bytes, tuple[int, ...]], Tensor] = {}

    def clear(self) -> None:
        """Forget all outputs: other layers are read from now on."""
        self._left += sum(kept.numel() * kept.element_size() for kept in self._kept.values())
        self._kept.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> "OutputCache":
        return self

    @torch.no_grad()
    def get(self, key: tuple[bytes, tuple[int, ...]], encode: Callable[[], Tensor]) -> Tensor:
        """The output for a key, encoded when it is not here."""
        found = self._kept.get(key)
        if found is None:
            found = encode().clamp(-LARGEST, LARGEST).half().cpu()
            size = found.numel() * found.element_size()
            if size <= self._left:
                self._kept[key] = found
                self._left -= size
        return found


class EncoderCtc(nn.Module):
    """An encoder with a head, called as a `Conformer` is, on `waveform_blocks` instead of filter banks.

    Parameters and state are those of the head and of the unfrozen layers; the frozen rest of the encoder is kept
    beside them and identified by its SHA-256, which is part of the state.

    Raises:
        RecipeError: layers that the encoder does not have.
    """

    encoder_sha256: Tensor
    layer_drop: float = 0.0

    def __init__(self, settings: EncoderCtcSettings, vocab_size: int, encoder: "HuggingfaceEncoder") -> None:
        super().__init__()
        self.settings, self.vocab_size = settings, vocab_size
        self._encoder = [encoder]  # in a list: what is frozen is not part of this module's state
        count, chosen = encoder.num_layers, settings.encoder.layers
        self.layer_numbers = tuple(range(1, count + 1)) if chosen == "all" else chosen
        _check_layers(settings, encoder)
        self.head = CtcHead(settings.head, len(self.layer_numbers), encoder.width, vocab_size)
        encoder.model.requires_grad_(False).eval()
        self._below = count - settings.encoder.unfreeze_layers
        self.unfrozen = nn.ModuleDict({str(n): encoder.layer(n) for n in range(self._below + 1, count + 1)})
        self.unfrozen.requires_grad_(True)
        if self.unfrozen and not torch.cuda.is_available():
            encoder.use_plain_attention()
        self.thawed = settings.encoder.frozen_epochs == 0
        self.register_buffer(
            "encoder_sha256", torch.tensor(list(bytes.fromhex(encoder.sha256)), dtype=torch.uint8), persistent=True
        )
        self.register_load_state_dict_post_hook(_check_encoder)
        self._cache = OutputCache(0)

    @property
    def encoder(self) -> "HuggingfaceEncoder":
        """The encoder, frozen layers included."""
        return self._encoder[0]

    @property
    def num_parameters(self) -> int:
        """Numbers of the head and of the whole encoder."""
        frozen = {id(parameter) for parameter in self.parameters()}
        rest = [parameter for parameter in self.encoder.model.parameters() if id(parameter) not in frozen]
        return sum(parameter.numel() for parameter in [*self.parameters(), *rest])

    def keep_outputs(self) -> None:
        """Keep the outputs of the frozen encoder in memory from now on, up to `encoder.cache_mb`: for training, which
        reads the same audio in every epoch."""
        self._cache = OutputCache(self.settings.encoder.cache_mb << 20)

    def start_epoch(self, epoch: int) -> None:
        """Take the freezing schedule to an epoch, counted from 1."""
        thawed = epoch > self.settings.encoder.frozen_epochs
        if self.unfrozen and thawed != self.thawed:
            self._cache.clear()
        self.thawed = thawed

    def rate_share(self, name: str) -> float:
        """Learning rate of a parameter as a share of the head's; 0 while its layer is frozen."""
        part, _, rest = name.partition(".")
        if part != "unfrozen":
            return 1.0
        if not self.thawed:
            return 0.0
        below = self.encoder.num_layers - int(rest.partition(".")[0])
        return self.settings.encoder.rate * self.settings.encoder.layer_decay**below

    def train(self, mode: bool = True) -> "EncoderCtc":
        """Training mode of the head; the encoder never drops anything."""
        super().train(mode)
        self.encoder.model.eval()
        self.unfrozen.eval()
        return self

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "EncoderCtc":
        self.encoder.model._apply(fn)
        super()._apply(fn, recurse)
        return self

    def forward(
        self,
        features: Tensor,
        feature_lens: Tensor,
        context: Context | None = None,
        inner_layers: Collection[int] = (),
        wanted_layers: Collection[int] = (),
    ) -> EncoderOutput:
        """Whole utterances: waveform blocks [B, T, 160] with lengths [B] int64 in blocks.

        `context` and `inner_layers` are of streaming models and of models with inner heads, and must be empty. The
        outputs of `wanted_layers`, counted from 1, are layer-normalised and averaged over the two frames of a pair.
        """
        if context is not None or inner_layers:
            raise ValueError("a public encoder has no chunks and no inner heads")
        lens = output_lens(feature_lens)
        numbers = tuple(sorted({*self.layer_numbers, *wanted_layers}))
        rows = [
            self._pairs(blocks[:length].flatten(), max(frames, 1), numbers).to(features.device)
            for blocks, length, frames in zip(features, feature_lens.tolist(), lens.tolist(), strict=True)
        ]
        pairs = pad_sequence(rows, batch_first=True)
        read = pairs if numbers == self.layer_numbers else pairs[..., [numbers.index(n) for n in self.layer_numbers], :]
        layers = {number: pairs[..., numbers.index(number), :].float().mean(2) for number in wanted_layers}
        return EncoderOutput(self.head(read, lens, not self._trains_upper), lens, (), layers)

    @property
    def _trains_upper(self) -> bool:
        """Whether the unfrozen layers are trained and can go on from the outputs of the frozen ones."""
        return bool(self.unfrozen) and self.thawed and self.encoder.runs_in_parts

    def _pairs(self, waveform: Tensor, frames: int, numbers: tuple[int, ...]) -> Tensor:
        """Layer-normalised outputs of layers, [T', 2, L, D], of one waveform [S]."""
        encoder = self.encoder
        if self._trains_upper:
            outputs = encoder.in_windows(waveform, lambda window: self._outputs(window, numbers))
            return paired(encoder, outputs, frames)
        if self.unfrozen and self.thawed:
            return paired_layers(encoder, waveform, frames, numbers)
        return self._cache.get((_digest(waveform), numbers), lambda: paired_layers(encoder, waveform, frames, numbers))

    def _outputs(self, window: Tensor, numbers: tuple[int, ...]) -> list[Tensor]:
        """Outputs of layers, [T, D] each, of at most a window of audio [S]: frozen ones are kept, and masked in
        training, before the trained ones go on from them."""
        encoder, below = self.encoder, self._below
        kept = tuple(sorted({below, *(number for number in numbers if number < below)}))

        def encode() -> Tensor:
            outputs = encoder.lower(window, below)
            return torch.stack([outputs[number] for number in kept])

        frozen = self._cache.get((_digest(window), kept), encode).to(window.device).float()  # [L, T, D]
        if self.training:  # in their place the mean over time: zeros are unlike any output
            masks = draw_masks(frozen.shape[1], encoder.frame_shift_ms, frozen.shape[2], self.settings.head)
            frozen = torch.where(masks.to(frozen.device).bool(), frozen, frozen.mean(1, keepdim=True))
        outputs = dict(zip(kept, frozen, strict=True))
        outputs |= enumerate(encoder.upper(outputs[below], below), start=below + 1)
        return [outputs[number] for number in numbers]


def _digest(waveform: Tensor) -> bytes:
    return hashlib.sha1(waveform.cpu().numpy().tobytes(), usedforsecurity=False).digest()


def paired_layers(encoder: "HuggingfaceEncoder", waveform: Tensor, frames: int, numbers: Sequence[int]) -> Tensor:
    """Layer-normalised outputs of layers, counted from 1, of one waveform [S], in pairs of frames: [T', 2, L, D]."""
    outputs = encoder.hidden(waveform)
    return paired(encoder, [outputs[number - 1] for number in numbers], frames)


def paired(encoder: "HuggingfaceEncoder", outputs: Sequence[Tensor], frames: int) -> Tensor:
    """Outputs of L layers, [T, D] each, layer-normalised and in pairs of frames: [T', 2, L, D]."""
    hidden = torch.stack([output.float() for output in outputs], 1)  # [T, L, D]
    hidden = F.layer_norm(hidden, hidden.shape[-1:])
    return hidden[nearest_frames(encoder, frames, len(hidden))]


def nearest_frames(encoder: "HuggingfaceEncoder", frames: int, available: int) -> Tensor:
    """Encoder frames, [T', 2], nearest to 10 ms before and after the centres of the students' frames."""
    centres = FRAME_OFFSET_MS + FRAME_SHIFT_MS * torch.arange(frames, dtype=torch.float64).unsqueeze(1)
    wanted = centres + torch.tensor([-10.0, 10.0], dtype=torch.float64)
    index = ((wanted - encoder.frame_offset_ms) / encoder.frame_shift_ms).round().long()
    return index.clamp(0, available - 1)


def _check_layers(settings: EncoderCtcSettings, encoder: "HuggingfaceEncoder") -> None:
    chosen, count = settings.encoder.layers, encoder.num_layers
    if chosen != "all" and chosen[-1] > count:
        raise RecipeError(
            f"encoder.layers names layer {chosen[-1]}", where=encoder.name, expected=f"layers from 1 to {count}"
        )
    if settings.encoder.unfreeze_layers > count:
        raise RecipeError(
            f"encoder.unfreeze_layers is {settings.encoder.unfreeze_layers}",
            where=encoder.name,
            expected=f"at most the encoder's {count} layers",
        )


def _check_encoder(model: nn.Module, keys: Any) -> None:
    """Refuse weights that were trained on another encoder: they would replace the SHA-256 and nothing else."""
    if not isinstance(model, EncoderCtc):
        raise TypeError(f"expected an EncoderCtc, found {type(model).__name__}")
    loaded = bytes(model.encoder_sha256.tolist()).hex()
    if loaded != model.encoder.sha256:
        raise CheckpointError(
            f"the encoder has the SHA-256 {model.encoder.sha256[:12]}…",
            expected=f"{loaded[:12]}…, that of the encoder these weights were trained on",
            where=model.encoder.name,
            remedy="Put that encoder back in its place, or train again with --force",
        )
