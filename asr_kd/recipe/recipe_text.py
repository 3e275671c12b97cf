"""Text of the recipe that `asr-kd init` writes: models and training that fit the hours of speech and the machine."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from asr_kd.targets.pseudo_labelling import PREFIX
from asr_kd.text.normalize import Normalizer

Start = Literal["conformer", "whisper"]
"""First weights of a student: random ones of a Conformer, or the layers of a small Whisper's encoder."""


@dataclass(frozen=True)
class Size:
    """Conformers for an amount of speech."""

    below_hours: float
    teacher: str
    student: str
    passes_hours: float  # epochs × hours of speech, for a CPU


SIZES = (
    Size(10, "small", "tiny", 240),
    Size(100, "medium", "5m", 1500),
    Size(500, "large", "10m", 6000),
    Size(float("inf"), "large", "30m", 30000),
)
"""By hours: the sizes and passes of the project's recipes for such an amount."""

MATCHING_HOURS, HEAD_HOURS = 37, 30
"""Epochs × hours of speech of the two stages of a student that begins from Whisper's layers (recipes/Whisper)."""
HOURS_FOR_LAYERS = 30
"""From so many hours on, Whisper's layers are trained with the head; fewer overfit."""


@dataclass(frozen=True)
class FoundCorpus:
    """A folder of speech, as `init` found it."""

    settings: dict[str, object]
    """The recipe's `corpus`."""
    found: str
    """What it is, in words."""
    train_hours: float
    transcribed: bool = True
    normalizer: Normalizer = "librispeech"
    alphabet: str | None = None
    """Characters of the vocabulary; None: those of the transcripts."""
    subwords: bool = False
    """Whether the transcripts are enough to learn subwords from."""
    notes: tuple[str, ...] = ()


def render_recipe(
    name: str, folder: Path, corpus: FoundCorpus, whisper: str, language: str, start: Start | None = None
) -> str:
    """Return the recipe's text, from `new_recipe.yaml.j2`; see `write_recipe`."""
    start = start or ("conformer" if corpus.transcribed else "whisper")
    gpu = torch.cuda.is_available()
    size = next(size for size in SIZES if corpus.train_hours < size.below_hours)
    templates = Environment(
        loader=PackageLoader("asr_kd.recipe", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"flow": _flow, "block": _block}
    return templates.get_template("new_recipe.yaml.j2").render(
        name=name,
        folder=folder,
        corpus=corpus,
        vocabulary=_vocabulary(corpus, start),
        start=start,
        size=size,
        training=_conformer_training(size, corpus.train_hours, gpu),
        stages=_whisper_stages(corpus.train_hours),
        encoder="openai/whisper-tiny.en" if language == "en" else "openai/whisper-tiny",
        whisper=PREFIX + whisper.removeprefix(PREFIX),
        language=language,
        gpu=gpu,
        few_cores=(os.cpu_count() or 1) <= 2,
    )


def _vocabulary(corpus: FoundCorpus, start: Start) -> dict[str, Any]:
    if start == "whisper" and corpus.subwords:  # which hold the characters
        return {"normalizer": corpus.normalizer, "kind": "bpe", "size": 256}
    return {"normalizer": corpus.normalizer, **({"alphabet": corpus.alphabet} if corpus.alphabet else {})}


def _conformer_training(size: Size, train_hours: float, gpu: bool) -> dict[str, Any]:
    epochs = max(12, min(100, round(size.passes_hours / max(train_hours, 0.1))))
    return {
        "epochs": epochs,
        "batch_seconds": 300 if gpu else 30,
        "learning_rate": 0.002 if size.student == "tiny" else 0.001,
        "warmup_epochs": max(1, epochs // 20),
        "validate_every_epochs": max(1, epochs // 12),
        "augmentation": {"speeds": [0.9, 1.0, 1.1]},
    }


def _whisper_stages(train_hours: float) -> dict[str, dict[str, Any]]:
    """Training of a student that begins from Whisper's layers: `matching` of hidden layers, then the `head` with CTC;
    and of the CTC head of a `teacher`.

    Batches are those of the measurements on a GPU too: larger ones would take fewer steps.
    """

    def training(passes_hours: float, batch_seconds: int) -> dict[str, Any]:
        epochs = max(2, min(80, round(passes_hours / max(train_hours, 0.1))))
        return {
            "epochs": epochs,
            "batch_seconds": batch_seconds,
            "learning_rate": 0.001,
            "warmup_epochs": 0.5,
            "weight_decay": 0.001,
            "validate_every_epochs": max(1, epochs // 4),
            "average_best": 1,
        }

    return {
        "matching": {**training(MATCHING_HOURS, 50), "adopted_rate": 0.4, "augmentation": {"spec_augment": None}},
        "head": {
            **training(HEAD_HOURS, 100),
            "layers_rate": 0 if train_hours < HOURS_FOR_LAYERS else 0.1,
            "augmentation": {
                "spec_augment": {
                    "frequency_masks": 2,
                    "frequency_width": 12,
                    "time_masks": 4,
                    "time_width_frames": 20,
                }
            },
        },
        "teacher": {**training(HEAD_HOURS, 100), "augmentation": {"spec_augment": None}},
    }


def _flow(value: object) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def _block(settings: dict[str, Any], indent: int) -> str:
    """Settings of a mapping, a line each; a mapping among them is one line."""
    return "\n".join(f"{' ' * indent}{key}: {_flow(value)}" for key, value in settings.items())
