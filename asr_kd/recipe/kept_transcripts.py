"""Transcripts that evaluations keep, so that a further system or setting of the report does not transcribe all again.

One file in `work_dir/transcripts` for each test set and system, named by the hash of what decides the text: weights,
decoding, device and the set's manifest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import asr_kd
from asr_kd.evaluation.system import System
from asr_kd.evaluation.system_outputs import OutputTexts
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

    def read(self, sets: Sequence[str]) -> dict[str, OutputTexts]:
        """Test set → system's key in the report → utterance id → text. Damaged files count as missing."""
        found: dict[str, OutputTexts] = {}
        for name in sets:
            texts = {key: self._read(name, key) for key in self._decided}
            found[name] = {key: own for key, own in texts.items() if own}
            if found[name]:
                systems = ", ".join(self._names[key] for key in found[name])
                self._context.progress.message(f"{name}: uses the transcripts of an earlier evaluation for {systems}")
        return found

    def write(self, name: str, texts: OutputTexts) -> None:
        """Keep what the systems wrote on a test set, or on a part of it."""
        for key, own in texts.items():
            if own:
                texts_of_key = {**self._read(name, key), **own}  # those of before where the work ended early
                write_json(self._path(name, key), {"set": name, "system": key, "texts": texts_of_key})

    def _read(self, name: str, key: str) -> Mapping[str, str]:
        try:
            texts: Mapping[str, str] = read_json(self._path(name, key))["texts"]
        except (OSError, ValueError):
            return {}
        return texts

    def _path(self, name: str, key: str) -> Path:
        decided = [self._decided[key], *self._context.corpus_hashes(name, spelling=False)]
        return self._context.folder(FOLDER, f"{sha256_of(decided)[:16]}.json")


def _what_decides_the_text(context: RunContext, name: str) -> list[Any]:
    settings = context.recipe.evaluate
    decided = [system_sha256(context, name), decoding_key(context, name), settings.batch_seconds, context.device.type]
    return [asr_kd.__version__, VERSION, *decided]
