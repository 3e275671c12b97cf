"""Transcripts that evaluations keep, so that a further system or setting of the report does not transcribe all again.

One file in `work_dir/transcripts` for each system and each test set, as it is, under a condition or in a context, named
by the hash of what decides the text: weights, decoding, device, the set's manifest, and what was changed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asr_kd
from asr_kd.evaluation.resumption import OutputTexts, SetVariant
from asr_kd.evaluation.sweeps import context_name
from asr_kd.evaluation.system import System
from asr_kd.files import read_json, sha256_of, write_json
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.stage import VERSION
from asr_kd.recipe.systems import decoding_key, system_sha256

FOLDER = "transcripts"


class KeptTranscripts:
    """Transcripts of a recipe's systems on its test sets.

    Args:
        systems: those of the recipe, opened.
    """

    def __init__(self, context: RunContext, systems: Sequence[System]) -> None:
        self._context = context
        self._names = {system.key: system.name for system in systems}
        self._decided = {system.key: _what_decides_the_text(context, system.name) for system in systems}

    def read(self, sets: Sequence[str]) -> dict[SetVariant, OutputTexts]:
        """Variant of a test set → system's key in the report → utterance id → text. Damaged files count as missing."""
        settings = self._context.recipe.evaluate
        changes = [
            *(condition.name for condition in settings.conditions),
            *(context_name(context) for context in settings.matrix),
        ]
        found: dict[SetVariant, OutputTexts] = {}
        for name in sets:
            of_set: dict[SetVariant, OutputTexts] = {}
            for variant in [SetVariant(name), *(SetVariant(name, change) for change in changes)]:
                texts = {key: self._read(variant, key) for key in self._decided}
                of_set[variant] = {key: own for key, own in texts.items() if own}
            used = [self._names[key] for key in self._names if any(key in texts for texts in of_set.values())]
            if used:
                self._context.progress.message(
                    f"{name}: uses the transcripts of an earlier evaluation for {', '.join(used)}"
                )
            found |= of_set
        return found

    def write(self, variant: SetVariant, texts: OutputTexts) -> None:
        """Keep what the systems wrote on a variant of a test set, or on a part of it."""
        for key, own in texts.items():
            if own:
                texts_of_key = {**self._read(variant, key), **own}  # those of before where the work ended early
                written = {"set": variant.set_name, "change": variant.change, "system": key, "texts": texts_of_key}
                write_json(self._path(variant, key), written)

    def _read(self, variant: SetVariant, key: str) -> Mapping[str, str]:
        try:
            texts: Mapping[str, str] = read_json(self._path(variant, key))["texts"]
        except (OSError, ValueError):
            return {}
        return texts

    def _path(self, variant: SetVariant, key: str) -> Path:
        decided: list[Any] = [self._decided[key], *self._context.corpus_hashes(variant.set_name, spelling=False)]
        if variant.change:  # babble is made of the utterances that are swept
            decided += [variant.change, self._context.recipe.evaluate.sweep_utterances]
        return self._context.folder(FOLDER, f"{sha256_of(decided)[:16]}.json")


def _what_decides_the_text(context: RunContext, name: str) -> list[Any]:
    settings = context.recipe.evaluate
    decided = [system_sha256(context, name), decoding_key(context, name), settings.batch_seconds, context.device.type]
    return [asr_kd.__version__, VERSION, *decided]
