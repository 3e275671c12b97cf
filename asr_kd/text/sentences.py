"""Sentences for a language model from what is on disk: transcripts and plain text. Knows no audio."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

from asr_kd.errors import LanguageModelError
from asr_kd.text.normalize import Normalizer, normalize


def read_sentences(path: Path, normalizer: Normalizer = "librispeech") -> Iterator[str]:
    """Sentences of a file or folder, normalized; empty ones are left out.

    Args:
        path: text with a sentence a line, a manifest (.jsonl, its `text`), transcripts whose lines begin with an id
            (Kaldi's `text` or NAME.text, LibriSpeech's .trans.txt), each possibly packed (.gz); or a folder of
            LibriSpeech's.
        normalizer: as the models' vocabulary writes.

    Raises:
        LanguageModelError: nothing there, no such folder's transcripts, or a row without text.
    """
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("*.trans.txt"))
    if not files or not path.exists():
        raise LanguageModelError(
            "holds no *.trans.txt" if path.exists() else "no such file or folder",
            where=path,
            expected="text, a manifest (.jsonl), or a folder of LibriSpeech's transcripts",
        )
    for file in files:
        for line in _texts(file):
            sentence = normalize(line, normalizer)
            if sentence.split():
                yield sentence


def _texts(path: Path) -> Iterator[str]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield _text(line, path, number)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise LanguageModelError(f"cannot be read ({error})", where=path, expected="text in UTF-8") from error


def _text(line: str, path: Path, number: int) -> str:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        try:
            return str(json.loads(line)["text"] or "") if line.strip() else ""
        except (ValueError, KeyError, TypeError) as error:
            raise LanguageModelError(
                f"row {line.strip()[:60]!r}", where=f"{path}:{number}", expected='an object with "text"'
            ) from error
    begins_with_id = name == "text" or name.endswith((".text", ".trans.txt"))
    return " ".join(line.split()[1:]) if begins_with_id else line
