"""Weights to begin from: another model's of the same shape, or some of its layers, instead of random ones.

Knows no data.
"""

from collections.abc import Sequence
from pathlib import Path

from asr_kd.errors import CheckpointError
from asr_kd.files import sha256_of_file
from asr_kd.models.conformer import Conformer
from asr_kd.models.weights import WEIGHTS, LoadedModel, load_model
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings

HEAD = "output."
"""Parameters of the output layer: the only ones that depend on the vocabulary."""
LAYER = "layers."
"""Parameters of a layer, before its number from 0."""
FREE = {"size", "dropout", "streaming"}
"""Settings of a model that do not change its weights' shapes."""


def start_from(model: Conformer, vocabulary: Vocabulary, settings: TrainSettings) -> None:
    """Fill `model` with the weights, and the features' normalisation, of the model that `init_from` names.

    Full context or chunked does not matter: both have the same weights. With `init_layers` each layer begins as the
    layer of that model that stands there for it.

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
    mine = model.state_dict()
    kept = {name for name in mine if name.startswith(HEAD) and not settings.init_head}
    theirs = source.model.state_dict()
    model.load_state_dict({name: mine[name] if name in kept else theirs[_named(name, layers)] for name in mine})


def _named(name: str, layers: Sequence[int]) -> str:
    """What a weight of ours is called over there: `layers.N.…` counts from 0."""
    if not (layers and name.startswith(LAYER)):
        return name
    number, rest = name.removeprefix(LAYER).split(".", 1)
    return f"{LAYER}{layers[int(number)] - 1}.{rest}"


def warm_start_sha256(settings: TrainSettings) -> list[str]:
    """Hash of the weights that training begins from, for those who must notice when they change; empty without.

    Raises:
        CheckpointError: they are not there.
    """
    if settings.init_from is None:
        return []
    path = settings.init_from / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            "the weights to begin from are not there",
            where=path,
            remedy="Run the recipe that makes them first, or name another model folder in train.init_from",
        )
    return [sha256_of_file(path)]


def _check_shape(model: Conformer, source: LoadedModel, layers: Sequence[int]) -> None:
    if layers:
        _check_layers(model.settings.layers, source, layers)
    free = FREE | {"layers"} if layers else FREE
    ours, theirs = (each.settings.model_dump(exclude=free) for each in (model, source.model))
    differing = [name for name in ours if ours[name] != theirs[name]]
    if differing:
        raise CheckpointError(
            "a model with " + ", ".join(f"{name} {theirs[name]}" for name in differing),
            expected="the student's " + ", ".join(f"{name} {ours[name]}" for name in differing),
            where=source.folder,
            remedy="Give the student that shape, or begin from another model",
        )


def _check_layers(count: int, source: LoadedModel, layers: Sequence[int]) -> None:
    if len(layers) != count:
        raise CheckpointError(
            f"train.init_layers names {len(layers)} layers",
            expected=f"one for each of the model's {count}",
            where=source.folder,
        )
    if max(layers) > source.model.settings.layers:
        raise CheckpointError(
            f"train.init_layers names layer {max(layers)}",
            expected=f"layers from 1 to {source.model.settings.layers}, those of the model to begin from",
            where=source.folder,
        )


def _check_vocabulary(vocabulary: Vocabulary, source: LoadedModel) -> None:
    theirs = source.vocabulary
    if theirs.sha256 != vocabulary.sha256:
        raise CheckpointError(
            f"a model of {len(theirs)} symbols, SHA-256 {theirs.sha256[:12]}…",
            expected=f"the student's {len(vocabulary)} symbols, SHA-256 {vocabulary.sha256[:12]}…",
            where=Path(source.folder),
            remedy="Use its vocabulary (vocabulary.kind: file, vocabulary.path: that folder), or begin with an output "
            "layer of its own (train.init_head: false)",
        )
