"""Warm start: initial weights from another model of the same shape, or from some of its layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_kd.errors import CheckpointError
from asr_kd.files import sha256_of_file
from asr_kd.hub import local_folder
from asr_kd.models.settings import WhisperSettings
from asr_kd.models.weights import WEIGHTS, LoadedModel, Model, load_model
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings

HEAD = "output."
"""Parameters of the output layer: the only ones that depend on the vocabulary."""
LAYER = "layers."
"""Parameters of a layer, before its number from 0."""
FREE = {"size", "dropout", "streaming", "init", "sizes"}
"""Settings of a model that do not change its weights' shapes."""


def warm_start(model: Model, vocabulary: Vocabulary, settings: TrainSettings) -> None:
    """Fill `model` with the weights, and the features' normalisation, of the model that `init_from` names.

    Full-context and chunked models have the same weights. With `init_layers` each layer is copied
    from the layer named there.

    Raises:
        CheckpointError: not a model folder, or a model of another shape or vocabulary; names both sides.
    """
    if settings.init_from is None:
        return
    source = load_model(settings.init_from)
    layers = settings.init_layers
    _check_shape(model, source, layers)
    if settings.init_head:
        _check_vocabulary(vocabulary, source)
    own = model.state_dict()
    kept = {name for name in own if name.startswith(HEAD) and not settings.init_head}
    other = source.model.state_dict()
    model.load_state_dict({name: own[name] if name in kept else other[_named(name, layers)] for name in own})


def _named(name: str, layers: Sequence[int]) -> str:
    """Return the source's name of a weight; `layers.N.…` counts from 0."""
    if not (layers and name.startswith(LAYER)):
        return name
    number, rest = name.removeprefix(LAYER).split(".", 1)
    return f"{LAYER}{layers[int(number)] - 1}.{rest}"


def warm_start_sha256(settings: TrainSettings) -> list[str]:
    """Return the SHA-256 of the weights in `init_from` as part of cache keys; empty without a warm start.

    Raises:
        CheckpointError: they are not there.
    """
    if settings.init_from is None:
        return []
    path = local_folder(settings.init_from) / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            "the weights for the warm start are missing",
            where=path,
            remedy="Run the recipe that makes them first, or name another model folder in train.init_from",
        )
    return [sha256_of_file(path)]


def _check_shape(model: Model, source: LoadedModel, layers: Sequence[int]) -> None:
    if layers:
        _check_layers(model.settings.num_layers, source, layers)
    free = FREE | {"layers"} if layers else FREE
    own_settings, other = (_sizes(each, free) for each in (model, source.model))
    differing = [name for name in own_settings if own_settings[name] != other.get(name)]
    if own_settings["architecture"] != other["architecture"]:
        differing = ["architecture"]  # the others have no counterpart
    if differing:
        raise CheckpointError(
            "a model with " + ", ".join(f"{name} {other[name]}" for name in differing),
            expected="the student's " + ", ".join(f"{name} {own_settings[name]}" for name in differing),
            where=source.folder,
            remedy="Give the student that shape, or name another model in train.init_from",
        )


def _sizes(model: Model, free: set[str]) -> dict[str, Any]:
    """The settings that the weights' shapes depend on."""
    settings = model.settings
    if isinstance(settings, WhisperSettings):
        read = settings.opened.model_dump(exclude={"sha256"})
        return {"architecture": "Whisper", **settings.model_dump(exclude=free), **read}
    return {"architecture": "Conformer", **settings.model_dump(exclude=free)}


def _check_layers(count: int, source: LoadedModel, layers: Sequence[int]) -> None:
    if len(layers) != count:
        raise CheckpointError(
            f"train.init_layers names {len(layers)} layers",
            expected=f"one for each of the model's {count}",
            where=source.folder,
        )
    if max(layers) > source.model.settings.num_layers:
        raise CheckpointError(
            f"train.init_layers names layer {max(layers)}",
            expected=f"layers from 1 to {source.model.settings.num_layers}, the layers of that model",
            where=source.folder,
        )


def _check_vocabulary(vocabulary: Vocabulary, source: LoadedModel) -> None:
    other = source.vocabulary
    if other.sha256 != vocabulary.sha256:
        raise CheckpointError(
            f"a model of {len(other)} symbols, SHA-256 {other.sha256[:12]}…",
            expected=f"the student's {len(vocabulary)} symbols, SHA-256 {vocabulary.sha256[:12]}…",
            where=Path(source.folder),
            remedy="Use its vocabulary (vocabulary.kind: file, vocabulary.path: that folder), or train a new output "
            "layer (train.init_head: false)",
        )
