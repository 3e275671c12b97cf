"""First weights of a model: those of another model of the same shape, or a public Whisper's encoder.

Shapes: S samples, T frames, F mel bins.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.distributed import Ranks
from asr_kd.errors import AudioError, CheckpointError, RecipeError, TrainingError
from asr_kd.features.fbank import fbank
from asr_kd.files import sha256_of_file
from asr_kd.hub import local_folder
from asr_kd.models.settings import WhisperSettings, WhisperSizes
from asr_kd.models.weights import WEIGHTS, LoadedModel, Model, load_model
from asr_kd.models.whisper import StreamingWhisper
from asr_kd.progress import Progress
from asr_kd.teachers.huggingface_encoder import WHISPER, HuggingfaceEncoder
from asr_kd.teachers.settings import EncoderSettings
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.checkpoint import mean_weights
from asr_kd.training.settings import TrainSettings

HEAD = "output."
"""Parameters of the output layer: the only ones that depend on the vocabulary."""
LAYER = "layers."
"""Parameters of a layer, before its number from 0."""
FREE: dict[str, Any] = {
    **dict.fromkeys(("size", "dropout", "streaming", "init", "sizes"), True),
    "head": {"dropout"},
}
"""Settings of a model that do not change the shapes of its weights, in the form of pydantic's `exclude`."""


def warm_start(model: Model, vocabulary: Vocabulary, settings: TrainSettings) -> None:
    """Fill `model` with the weights, and the features' normalisation, of the model that `init_from` names, or with the
    mean over the models that it names.

    Full-context and chunked models have the same weights. With `init_layers` each layer is copied
    from the layer named there.

    Raises:
        CheckpointError: not a model folder, or a model of another shape or vocabulary; names both sides.
    """
    if settings.init_models:
        sources = (load_model(folder) for folder in settings.init_models)
        taken = mean_weights(_taken_over(model, vocabulary, settings, source) for source in sources)
        model.load_state_dict({**model.state_dict(), **taken})


def _taken_over(
    model: Model, vocabulary: Vocabulary, settings: TrainSettings, source: LoadedModel
) -> dict[str, Tensor]:
    """Return the weights of `source` by their names in `model`."""
    layers = settings.init_layers
    _check_shape(model, source, layers)
    if settings.init_head:
        _check_vocabulary(vocabulary, source)
    other = source.model.state_dict()
    kept = HEAD if not settings.init_head else None
    names = {name: _named(name, layers) for name in model.state_dict() if kept is None or not name.startswith(kept)}
    missing = [name for name in names if names[name] not in other]
    if missing:
        raise CheckpointError(
            f"train.init_layers: has no {names[missing[0]]}",
            expected=f"a layer with the parts of the model's layer {int(missing[0].split('.')[1]) + 1}",
            where=source.folder,
            remedy="Name layers of Whisper for layers of Whisper, and blocks of the head for blocks of the head",
        )
    return {name: other[theirs] for name, theirs in names.items()}


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
    paths = [local_folder(folder) / WEIGHTS for folder in settings.init_models]
    for path in paths:
        if not path.is_file():
            raise CheckpointError(
                "the weights for the warm start are missing",
                where=path,
                remedy="Run the recipe that makes them first, or name another model folder in train.init_from",
            )
    return [sha256_of_file(path) for path in paths]


def _check_shape(model: Model, source: LoadedModel, layers: Sequence[int]) -> None:
    if layers:
        _check_layers(model.settings.num_layers, source, layers)
    free = FREE | {"layers": True} if layers else FREE
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


def _sizes(model: Model, free: dict[str, Any]) -> dict[str, Any]:
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


MAP_SAMPLE = 200
"""Utterances that the feature map is fitted on; it has 6,480 numbers."""

S = TypeVar("S")


def read_sizes(settings: S, init_from: Path | None = None) -> S:
    """Settings with the sizes of the encoder that they name; other models' are returned as they are.

    The encoder is not opened where the weights come from `init_from`, a model folder.

    Raises:
        AsrKdError: the encoder is missing or damaged, is no Whisper of 80 mel bins, or lacks one of the layers.
    """
    if not isinstance(settings, WhisperSettings):
        return settings
    if init_from is not None:
        return settings.model_copy(update={"sizes": _sizes_of(init_from)})
    encoder = _open(settings)
    config: Any = encoder.model.config
    sizes = {"width": config.d_model, "heads": config.encoder_attention_heads, "feed_forward": config.encoder_ffn_dim}
    return settings.model_copy(update={"sizes": WhisperSizes.model_validate({**sizes, "sha256": encoder.sha256})})


def start_from_whisper(
    model: StreamingWhisper, utterances: Sequence[Utterance], seed: int, ranks: Ranks, progress: Progress
) -> None:
    """Copy the encoder's weights and fit the feature map; the normalisation of the features is set before.

    Raises:
        AsrKdError: as `read_sizes`; or none of the utterances can be read.
    """
    encoder = _open(model.settings)
    if encoder.sha256 != model.settings.opened.sha256:
        raise CheckpointError("has changed while the training started", where=encoder.name, remedy="Run it again")
    model.copy_encoder(encoder.model.state_dict())
    fitted = ranks.broadcast(_fitted(encoder, utterances, seed) if ranks.first else None)
    if fitted is None:
        raise TrainingError(
            "none of the training utterances can be read", remedy="Look at the corpus with `asr-kd check`"
        )
    weight, bias, explained = fitted
    model.set_feature_map(weight, bias)
    progress.message(f"begins from {encoder.name}; the feature map explains {100 * explained:.0f} % of its features")


def fit_feature_map(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, float]:
    """Least-squares map from features [T, F] to others [T', F], frame by frame up to the shorter of each pair.

    Returns:
        Weight [F, F] and bias [F], so that weight @ x + bias is the other frame, and the share of its variance that
        they explain.
    """
    inner = outer = squares = torch.zeros((), dtype=torch.float64)
    for own, other in pairs:
        frames = min(len(own), len(other))
        given = torch.cat([own[:frames].double(), torch.ones(frames, 1, dtype=torch.float64)], dim=1)
        wanted = other[:frames].double()
        inner = inner + given.T @ given
        outer = outer + given.T @ wanted
        squares = squares + wanted.square().sum(0)
    solution = torch.linalg.lstsq(inner, outer).solution  # [F + 1, F]
    left = squares.sum() - 2 * (solution * outer).sum() + (solution * (inner @ solution)).sum()
    total = squares.sum() - (outer[-1].square() / inner[-1, -1]).sum()
    return solution[:-1].T.float(), solution[-1].float(), float(1 - left / total)


def _fitted(
    encoder: HuggingfaceEncoder, utterances: Sequence[Utterance], seed: int
) -> tuple[Tensor, Tensor, float] | None:
    """`fit_feature_map` on a random sample; None where none of it can be read."""
    pairs = []
    for index in np.random.default_rng(seed).permutation(len(utterances))[:MAP_SAMPLE]:
        try:
            waveform = read_utterance(utterances[index])
        except AudioError:
            continue
        pairs.append((fbank(waveform), encoder.inputs(waveform)["input_features"][0].T))
    return fit_feature_map(pairs) if pairs else None


def _open(settings: WhisperSettings) -> HuggingfaceEncoder:
    encoder = HuggingfaceEncoder(EncoderSettings(source=settings.source))
    if encoder.family != WHISPER:
        raise RecipeError(
            f"is a {encoder.family!r} model",
            where=encoder.name,
            expected="a Whisper, whose encoder model.init begins from",
            remedy="Name a Whisper, or give the student a shape of its own and match that encoder's layers with the "
            "objective `representation`",
        )
    if settings.layers[-1] >= encoder.num_layers:
        raise RecipeError(
            f"model.layers names layer {settings.layers[-1]}",
            where=encoder.name,
            expected=f"layers from 0 to {encoder.num_layers - 1}",
        )
    return encoder


def _sizes_of(folder: Path) -> WhisperSizes:
    """The sizes that a model folder's description holds."""
    found = load_model(folder).model.settings
    if not isinstance(found, WhisperSettings):
        raise CheckpointError(
            "is a Conformer",
            where=folder,
            expected="a streaming Whisper encoder, as model.init says",
            remedy="Give the student the settings of that model, or name another in train.init_from",
        )
    return found.opened
