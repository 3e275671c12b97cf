"""The first weights of a streaming Whisper encoder: a public Whisper's, and a map of our features to its own.

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
from asr_kd.features.fbank import NUM_MEL_BINS, fbank
from asr_kd.files import sha256_of_file
from asr_kd.models.settings import WhisperSettings, WhisperSizes
from asr_kd.models.weights import WEIGHTS, load_model
from asr_kd.models.whisper import StreamingWhisper
from asr_kd.progress import Progress
from asr_kd.teachers.huggingface_encoder import WHISPER, HuggingfaceEncoder, local_copy
from asr_kd.teachers.settings import EncoderSettings, parse_source

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


def encoder_hashes(settings: object) -> list[str]:
    """The SHA-256 of the weights that a model begins from, as part of a stage's inputs; none of a hub's repository."""
    if not isinstance(settings, WhisperSettings):
        return []
    path = Path(local_copy(parse_source(settings.source).place)).expanduser() / WEIGHTS
    return [sha256_of_file(path)] if path.is_file() else []


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
    model.set_feature_map(torch.tensor(weight), torch.tensor(bias))
    progress.message(f"begins from {encoder.name}; the feature map explains {100 * explained:.0f} % of its features")


def fit_feature_map(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, float]:
    """Least-squares map from features [T, F] to others [T', F], frame by frame up to the shorter of each pair.

    Returns:
        Weight [F, F] and bias [F], so that weight @ x + bias is the other frame, and the share of its variance that
        they explain.
    """
    inner = torch.zeros(NUM_MEL_BINS + 1, NUM_MEL_BINS + 1, dtype=torch.float64)
    outer = torch.zeros(NUM_MEL_BINS + 1, NUM_MEL_BINS, dtype=torch.float64)
    squares = torch.zeros(NUM_MEL_BINS, dtype=torch.float64)
    for own, other in pairs:
        frames = min(len(own), len(other))
        given = torch.cat([own[:frames].double(), torch.ones(frames, 1, dtype=torch.float64)], dim=1)
        wanted = other[:frames].double()
        inner += given.T @ given
        outer += given.T @ wanted
        squares += wanted.square().sum(0)
    solution = torch.linalg.lstsq(inner, outer).solution  # [F + 1, F]
    left = squares.sum() - 2 * (solution * outer).sum() + (solution * (inner @ solution)).sum()
    total = squares.sum() - (outer[-1].square() / inner[-1, -1]).sum()
    return solution[:-1].T.float(), solution[-1].float(), float(1 - left / total)


def _fitted(
    encoder: HuggingfaceEncoder, utterances: Sequence[Utterance], seed: int
) -> tuple[list[list[float]], list[float], float] | None:
    """`fit_feature_map` on a random sample, as plain numbers; None where none of it can be read."""
    pairs = []
    for index in np.random.default_rng(seed).permutation(len(utterances))[:MAP_SAMPLE]:
        try:
            waveform = read_utterance(utterances[index])
        except AudioError:
            continue
        pairs.append((fbank(waveform), encoder.inputs(waveform)["input_features"][0].T))
    if not pairs:
        return None
    weight, bias, explained = fit_feature_map(pairs)
    return weight.tolist(), bias.tolist(), explained


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
