"""A model on disk: model.json, model.safetensors, tokens.txt and, for subwords, bpe.model. Nothing in it can run code.

Written whole or not at all; opened only when its version, hashes and shapes are right.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from asr_kd.config import Settings, parse_settings
from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.features.fbank import FEATURE_CONTRACT
from asr_kd.files import atomic_folder, read_json, sha256_of_file, write_json
from asr_kd.hub import local_folder
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, ModelDescription, WhisperSettings
from asr_kd.models.whisper import StreamingWhisper
from asr_kd.text.vocabulary import Vocabulary

FORMAT, FORMAT_VERSION = "asr-kd model", 1
NO_PICKLES = "pickled checkpoints (.pt, .bin, .ckpt) are refused because opening one can run code"
DESCRIPTION, WEIGHTS, TOKENS = "model.json", "model.safetensors", "tokens.txt"

Model = Conformer | StreamingWhisper

AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use, in evaluation mode, and the description in its folder."""

    model: Model
    vocabulary: Vocabulary
    card: dict[str, Any]
    """Facts of the training: recipe, epochs, dev WER, versions."""
    sha256: str
    """Of the weights: the model's identity for soft targets and bundles."""
    folder: Path


def build_model(settings: ConformerSettings | WhisperSettings, vocab_size: int) -> Model:
    """Build a model with random weights.

    Raises:
        ValueError: settings of a Whisper whose sizes are not read yet.
    """
    if isinstance(settings, WhisperSettings):
        return StreamingWhisper(settings, vocab_size)
    return Conformer(settings, vocab_size)


def save_model(
    folder: Path, model: Model, vocabulary: Vocabulary, card: dict[str, Any], dtype: torch.dtype = torch.float32
) -> str:
    """Write a model folder and return the SHA-256 of its weights."""
    return write_model_folder(folder, FORMAT, model, vocabulary, {"features": FEATURE_CONTRACT, "card": card}, dtype)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> LoadedModel:
    """Open a model folder, or `hf:USER/NAME[@REVISION]`.

    Raises:
        CheckpointError: not such a folder, another version, damaged, or a pickle in place of safetensors.
    """
    folder = local_folder(folder)
    description, vocabulary, sha256 = read_model_folder(folder, FORMAT)
    if description.get("features") != FEATURE_CONTRACT:
        raise CheckpointError(
            "was trained on other features", expected=str(FEATURE_CONTRACT), where=folder / DESCRIPTION
        )
    settings = parse_model_settings(ModelDescription, {"model": description.get("model")}, folder).model
    model = build_model(settings, len(vocabulary))
    load_weights(model, folder / WEIGHTS)
    return LoadedModel(model.to(device).eval(), vocabulary, description.get("card", {}), sha256, folder)


def write_model_folder(
    folder: Path,
    kind: str,
    model: nn.Module,
    vocabulary: Vocabulary,
    facts: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> str:
    """Write, or replace as a whole, the folder of a model with `settings`; return the SHA-256 of its weights.

    `kind` is the format that the description names, `facts` are its further keys, `card` among them.
    """
    settings = cast(Settings, model.settings)
    with atomic_folder(folder, guard=True) as partial:
        weights = {
            name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous()
            for name, tensor in model.state_dict().items()
        }
        write_tensors(partial / WEIGHTS, weights)
        vocabulary.save(partial / TOKENS)
        sha256 = sha256_of_file(partial / WEIGHTS)
        description = {
            "format": kind,
            "version": FORMAT_VERSION,
            "model": settings.model_dump(mode="json"),
            "vocabulary_sha256": vocabulary.sha256,
            "weights_sha256": sha256,
            **facts,
        }
        write_json(partial / DESCRIPTION, description)
    return sha256


def read_model_folder(folder: Path, kind: str) -> tuple[dict[str, Any], Vocabulary, str]:
    """Return description, vocabulary and SHA-256 of the weights of a model folder; all but the weights is verified.

    Raises:
        CheckpointError: not such a folder, of another format or version, or damaged.
    """
    path, weights = folder / DESCRIPTION, folder / WEIGHTS
    again = "Copy the whole folder again"
    if not folder.is_dir() or not path.is_file():
        found = "is not a model folder" if folder.exists() else "does not exist"
        expected = f"a folder with {DESCRIPTION}, {WEIGHTS} and {TOKENS}; {NO_PICKLES}"
        raise CheckpointError(found, where=folder, expected=expected)
    try:
        description = read_json(path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot be read ({error})", where=path, remedy="Copy the folder again") from error
    if description.get("format") != kind:
        raise CheckpointError(f"does not describe an {kind}", where=path)
    if not isinstance(description.get("card", {}), dict):
        raise CheckpointError("its card is no mapping", where=path, expected="names and values", remedy=again)
    version = description.get("version")
    if version != FORMAT_VERSION:
        remedy = "Use the release of asr-kd that wrote it, or train again"
        raise CheckpointError(
            f"format version {version!r}", expected=f"version {FORMAT_VERSION}", where=path, remedy=remedy
        )
    if not weights.is_file():
        raise CheckpointError("the weights are missing", where=weights, remedy=again)
    sha256 = sha256_of_file(weights)
    if sha256 != description.get("weights_sha256"):
        raise CheckpointError(
            f"the weights' SHA-256 is {sha256[:12]}…",
            expected=f"{str(description.get('weights_sha256'))[:12]}… as in {DESCRIPTION}",
            where=weights,
            remedy="The file is damaged or was replaced; copy it again or train again",
        )
    vocabulary = Vocabulary.load(folder / TOKENS)
    if vocabulary.sha256 != description.get("vocabulary_sha256"):
        found = f"is not the vocabulary that {DESCRIPTION} names"
        raise CheckpointError(found, where=folder / TOKENS, remedy=again)
    return description, vocabulary, sha256


def parse_model_settings(kind: type[AnySettings], data: Any, folder: Path) -> AnySettings:
    """Parse the settings in a model folder's description.

    Raises:
        CheckpointError: they are not valid.
    """
    try:
        return parse_settings(kind, data, folder / DESCRIPTION)
    except RecipeError as error:
        raise CheckpointError(
            str(error), remedy="The folder was written by another release or changed by hand"
        ) from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from a safetensors file of the same shapes.

    Raises:
        CheckpointError: not safetensors, or other names or shapes than the model has.
    """
    weights = read_tensors(path)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(
            "the weights do not fit the model: " + " ".join(str(error).split())[:500], where=path
        ) from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the disk is full, for example; safetensors has an error of its own for that.
    """
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        CheckpointError: it is something else, a pickle for example.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"is not a safetensors file ({error})",
            where=path,
            expected=f"safetensors; {NO_PICKLES}",
        ) from error
