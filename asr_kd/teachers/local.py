"""Teachers that this project trained: folders with a Conformer, or with a CTC head on a public encoder.

The folder of a head holds model.json, tokens.txt (and bpe.model), and model.safetensors with the head and the unfrozen
layers. The frozen layers stay where the encoder came from; model.json names that place and the SHA-256 of its files.

Shapes: B utterances, S samples, T frames, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.errors import is_out_of_memory
from asr_kd.features.fbank import FEATURE_CONTRACT, fbank, pad_batch
from asr_kd.files import read_json
from asr_kd.models.layers import (
    FACTOR,
    FRAME_OFFSET_MS,
    FRAME_SHIFT_MS,
    feature_frames_for,
    output_len,
)
from asr_kd.models.settings import Context
from asr_kd.models.weights import (
    DESCRIPTION,
    WEIGHTS,
    Model,
    load_model,
    load_weights,
    parse_model_settings,
    read_model_folder,
    write_model_folder,
)
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.base import arithmetic, with_precision
from asr_kd.teachers.encoder_ctc import EncoderCtc, waveform_blocks
from asr_kd.teachers.huggingface_encoder import HuggingfaceEncoder
from asr_kd.teachers.settings import EncoderCtcSettings, Precision
from asr_kd.text.vocabulary import Vocabulary

ENCODER_FORMAT = "asr-kd encoder with a CTC head"


class LocalTeacher:
    """A model folder as a teacher, posteriors on its device; see `teachers.base.LayeredTeacher` for its members.

    Utterances that do not fit into memory go through a streaming model chunk by chunk, to the same posteriors. Layers
    of an encoder are layer-normalised; the encoder is where it was when the head was trained, or `encoder`.

    Raises:
        CheckpointError: not a model folder, or damaged; or the encoder is missing or another one.
        MissingExtraError: an encoder without transformers.
    """

    frame_shift_ms = float(FRAME_SHIFT_MS)
    frame_offset_ms = float(FRAME_OFFSET_MS)
    features: Mapping[str, Any]
    _model: Model | EncoderCtc

    def __init__(
        self,
        folder: Path,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        encoder: str | None = None,
    ) -> None:
        self._device, self._precision = torch.device(device), precision
        if is_encoder_folder(folder):
            description, self.vocabulary, sha256 = read_model_folder(folder, ENCODER_FORMAT)
            model = _open_encoder(folder, description, len(self.vocabulary), encoder).to(self._device).eval()
            self._model, card, self._inputs = model, description.get("card", {}), waveform_blocks
            self.num_parameters = model.num_parameters
            self.num_layers, self.width = model.encoder.num_layers, model.encoder.width
            self.features = {
                "kind": "encoder",
                "encoder": model.encoder.name,
                "encoder_sha256": model.encoder.sha256,
            }
        else:
            loaded = load_model(folder, self._device)
            self._model, self.vocabulary, card, sha256 = loaded.model, loaded.vocabulary, loaded.card, loaded.sha256
            self._inputs, self.features = fbank, FEATURE_CONTRACT
            self.num_layers, self.width = loaded.model.settings.num_layers, loaded.model.settings.width
        self.name = str(card.get("name", folder.name))
        self.sha256 = with_precision(sha256, precision)

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Posteriors [B, T, V] and lengths [B] of waveforms [B, S]."""
        model = self._model
        try:
            return self.with_layers(waveforms, sample_lens, ())[0]
        except (RuntimeError, MemoryError) as error:
            if isinstance(model, EncoderCtc) or len(waveforms) > 1 or not is_out_of_memory(error):
                raise
            if model.settings.streaming is None:
                raise
        features = self._inputs(waveforms[0, : int(sample_lens[0])])
        return self._in_chunks(model, features, model.settings.streaming.context)

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        rows = zip(waveforms, sample_lens.tolist(), strict=True)
        inputs, lens = pad_batch([self._inputs(waveform[:length]) for waveform, length in rows])
        with torch.inference_mode(), arithmetic(self._precision, self._device):
            output = self._model(inputs.to(self._device), lens.to(self._device), wanted_layers=layers)
        return DensePosteriors(output.log_probs, output.lens), output.layers

    def _in_chunks(self, model: Model, features: Tensor, context: Context) -> DensePosteriors:
        """Posteriors [1, T', V] of features [T, F], of which a chunk at a time is on the device."""
        frames = output_len(len(features))
        state, pieces = model.initial_state(1), []
        with torch.inference_mode(), arithmetic(self._precision, self._device):
            for first in range(0, frames, context.chunk_frames):
                end = min(first + context.chunk_frames, frames)  # of the chunk; the last one may be shorter
                seen = min(end + context.right_context_frames, frames)
                window = features[FACTOR * first : feature_frames_for(seen)]
                log_probs, state = model.stream_step(window.unsqueeze(0).to(self._device), state, seen - end)
                pieces.append(log_probs)
        return DensePosteriors(torch.cat(pieces, 1), torch.tensor([frames], device=self._device))


def build_encoder_ctc(settings: EncoderCtcSettings, vocab_size: int) -> EncoderCtc:
    """Open the encoder that the settings name and put a new head on it.

    Raises:
        AsrKdError: see `HuggingfaceEncoder` and `EncoderCtc`.
    """
    return EncoderCtc(settings, vocab_size, HuggingfaceEncoder(settings.encoder))


def save_encoder_ctc(folder: Path, model: EncoderCtc, vocabulary: Vocabulary, card: Mapping[str, Any]) -> str:
    """Write a model folder and return the SHA-256 of its weights, which the encoder's SHA-256 is part of."""
    encoder = {"name": model.encoder.name, "sha256": model.encoder.sha256}
    return write_model_folder(folder, ENCODER_FORMAT, model, vocabulary, {"encoder": encoder, "card": dict(card)})


def is_encoder_folder(folder: Path) -> bool:
    """Whether a model folder holds an encoder with a CTC head rather than a Conformer."""
    try:
        return read_json(folder / DESCRIPTION).get("format") == ENCODER_FORMAT
    except (OSError, ValueError):
        return False  # opening it as a Conformer names what is wrong


def read_card(folder: Path) -> dict[str, Any]:
    """Facts of the training in model.json: recipe, epochs, dev WER."""
    card: dict[str, Any] = read_json(folder / DESCRIPTION).get("card", {})
    return card


def _open_encoder(folder: Path, description: Mapping[str, Any], vocab_size: int, source: str | None) -> EncoderCtc:
    settings = parse_model_settings(EncoderCtcSettings, description.get("model"), folder)
    if source is not None:
        settings = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"source": source})})
    model = build_encoder_ctc(settings, vocab_size)
    load_weights(model, folder / WEIGHTS)
    model.start_epoch(settings.encoder.frozen_epochs + 1)
    return model
