"""An encoder with a CTC head on disk, and opened as a teacher.

The folder holds model.json, tokens.txt (and bpe.model), and model.safetensors with the head and the unfrozen layers.
The frozen layers stay where the encoder came from; model.json names that place and the SHA-256 of what was there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.config import parse_settings
from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.files import atomic_folder, read_json, sha256_of_file, write_json
from asr_kd.models.subsampling import FRAME_OFFSET_MS, FRAME_SHIFT_MS
from asr_kd.models.weights import DESCRIPTION, TOKENS, WEIGHTS, load_weights, write_tensors
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.ctc_teacher import arithmetic, with_precision
from asr_kd.teachers.encoder_ctc import EncoderCtc, waveform_blocks
from asr_kd.teachers.huggingface_encoder import HuggingfaceEncoder
from asr_kd.teachers.settings import EncoderCtcSettings, Precision
from asr_kd.text.vocabulary import Vocabulary

FORMAT, VERSION = "asr-kd encoder with a CTC head", 1


def build_encoder_ctc(settings: EncoderCtcSettings, vocab_size: int) -> EncoderCtc:
    """Open the encoder that the settings name and put a new head on it.

    Raises:
        AsrKdError: see `HuggingfaceEncoder` and `EncoderCtc`.
    """
    return EncoderCtc(settings, vocab_size, HuggingfaceEncoder(settings.encoder))


def save_encoder_ctc(folder: Path, model: EncoderCtc, vocabulary: Vocabulary, card: Mapping[str, Any]) -> str:
    """Write a model folder and return the SHA-256 of its weights, which the encoder's SHA-256 is part of."""
    with atomic_folder(folder, guard=True) as partial:
        write_tensors(
            partial / WEIGHTS, {name: each.detach().cpu().contiguous() for name, each in model.state_dict().items()}
        )
        vocabulary.save(partial / TOKENS)
        sha256 = sha256_of_file(partial / WEIGHTS)
        description = {
            "format": FORMAT,
            "version": VERSION,
            "model": model.settings.model_dump(mode="json"),
            "encoder": {"name": model.encoder.name, "sha256": model.encoder.sha256},
            "vocabulary_sha256": vocabulary.sha256,
            "weights_sha256": sha256,
            "card": dict(card),
        }
        write_json(partial / DESCRIPTION, description)
    return sha256


def is_encoder_folder(folder: Path) -> bool:
    """Whether a model folder holds an encoder with a CTC head rather than a Conformer."""
    try:
        return read_json(folder / DESCRIPTION).get("format") == FORMAT
    except (OSError, ValueError):
        return False  # opening it as a Conformer names what is wrong


def read_card(folder: Path) -> dict[str, Any]:
    """What training wrote into model.json: recipe, epochs, dev WER."""
    card: dict[str, Any] = read_json(folder / DESCRIPTION).get("card", {})
    return card


class EncoderTeacher:
    """A model folder as a teacher; see `teachers.base.LayeredTeacher` for what its members mean.

    Args:
        folder: written by `save_encoder_ctc`.
        device: where the model runs; posteriors stay there.
        precision: arithmetic of the model's layers; the last softmax is taken in float32.

    Raises:
        CheckpointError: not such a folder, damaged, or the encoder is missing or another one.
        MissingExtraError: transformers is not installed.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", precision: Precision = "fp32") -> None:
        description = read_json(folder / DESCRIPTION)
        weights_sha256 = _check(folder, description)
        self.vocabulary = Vocabulary.load(folder / TOKENS)
        if self.vocabulary.sha256 != description.get("vocabulary_sha256"):
            raise CheckpointError(
                f"is not the vocabulary that {DESCRIPTION} names",
                where=folder / TOKENS,
                remedy="Copy the whole folder again",
            )
        self._model = _open_model(folder, description, len(self.vocabulary)).to(device).eval()
        self._device, self._precision = torch.device(device), precision
        self.name = str(description.get("card", {}).get("name", folder.name))
        self.sha256 = with_precision(weights_sha256, precision)
        self.frame_shift_ms, self.frame_offset_ms = float(FRAME_SHIFT_MS), float(FRAME_OFFSET_MS)
        encoder = self._model.encoder
        self.features: Mapping[str, Any] = {
            "kind": "encoder",
            "encoder": encoder.name,
            "encoder_sha256": encoder.sha256,
        }
        self.num_layers, self.width = encoder.num_layers, encoder.width
        self.num_parameters = self._model.num_parameters

    def log_probs(self, waveforms: Tensor, sample_lens: Tensor) -> DensePosteriors:
        """Posteriors [B, T, V] and lengths [B] of waveforms [B, S]."""
        return self.with_layers(waveforms, sample_lens, ())[0]

    def with_layers(
        self, waveforms: Tensor, sample_lens: Tensor, layers: Sequence[int]
    ) -> tuple[DensePosteriors, Mapping[int, Tensor]]:
        """Posteriors as of `log_probs`, and the outputs of these layers, [B, T, D] each, layer-normalised."""
        rows = zip(waveforms, sample_lens.tolist(), strict=True)
        blocks = [waveform_blocks(waveform[:length]) for waveform, length in rows]
        lens = torch.tensor([len(row) for row in blocks])
        features = torch.nn.utils.rnn.pad_sequence(blocks, batch_first=True)
        with torch.inference_mode(), arithmetic(self._precision, self._device):
            output = self._model(features.to(self._device), lens.to(self._device), wanted_layers=layers)
        return DensePosteriors(output.log_probs, output.lens), output.layers


def _check(folder: Path, description: Mapping[str, Any]) -> str:
    """The SHA-256 of the weights, if they are those that were written."""
    path = folder / WEIGHTS
    if description.get("version") != VERSION:
        raise CheckpointError(
            f"format version {description.get('version')!r}",
            expected=f"version {VERSION}",
            where=folder / DESCRIPTION,
            remedy="Use the release of asr-kd that wrote it, or train again",
        )
    if not path.is_file():
        raise CheckpointError("the weights are missing", where=path, remedy="Copy the whole folder again")
    sha256 = sha256_of_file(path)
    if sha256 != description.get("weights_sha256"):
        raise CheckpointError(
            f"the weights' SHA-256 is {sha256[:12]}…",
            expected=f"{str(description.get('weights_sha256'))[:12]}… as in {DESCRIPTION}",
            where=path,
            remedy="The file is damaged or was replaced; copy it again or train again",
        )
    return sha256


def _open_model(folder: Path, description: Mapping[str, Any], vocab_size: int) -> EncoderCtc:
    try:
        settings = parse_settings(EncoderCtcSettings, description.get("model"), folder / DESCRIPTION)
    except RecipeError as error:
        raise CheckpointError(
            str(error), remedy="The folder was written by another release or changed by hand"
        ) from error
    model = build_encoder_ctc(settings, vocab_size)
    expected = description.get("encoder", {}).get("sha256")
    if model.encoder.sha256 != expected:
        raise CheckpointError(
            f"the encoder {settings.encoder.source} has the SHA-256 {model.encoder.sha256[:12]}…",
            expected=f"{str(expected)[:12]}…, that of the encoder this head was trained on",
            where=folder / DESCRIPTION,
            remedy="Put that encoder back in its place, or train the head again",
        )
    load_weights(model, folder / WEIGHTS)
    model.start_epoch(settings.encoder.frozen_epochs + 1)
    return model
