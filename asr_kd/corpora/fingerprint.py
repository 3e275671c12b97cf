"""Fingerprints of a corpus on disk and of the audio of utterances, by which changes are noticed.

A corpus' fingerprint consists of names and sizes. Of a publisher's layout it goes two levels deep, so a file replaced
further down is not noticed, and `asr-kd prepare --force` is needed. Of a user's manifests and folders it covers every
file. The identity of audio covers content, so that targets of other audio under the same ids are noticed.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from asr_kd.corpora.an4 import find_an4
from asr_kd.corpora.folder import audio_files
from asr_kd.corpora.formats.catalogue import read_table
from asr_kd.corpora.librispeech import find_librispeech
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import (
    An4Settings,
    AnyCorpus,
    FolderSettings,
    FurtherSpeechSettings,
    ManifestFiles,
    ManifestSettings,
    SyntheticSettings,
    UntranscribedSettings,
)
from asr_kd.corpora.synthetic import settings_key
from asr_kd.files import sha256_of, sha256_of_file

THREADS = 8
"""Files are read in parallel, because most of the time is waiting for the disk."""

BLOCK_BYTES = 16_384
"""Read at the start, in the middle and at the end of a file: whole corpora would take minutes."""

T = TypeVar("T")


def fingerprint(settings: AnyCorpus | UntranscribedSettings | FurtherSpeechSettings) -> Any:
    """Return plain data that changes with the files of a corpus, or of speech beside it.

    Raises:
        CorpusError: the corpus is missing, or a manifest cannot be read.
    """
    if isinstance(settings, SyntheticSettings):
        return settings_key(settings)
    if isinstance(settings, UntranscribedSettings):
        return [_sizes(audio_files(folder, settings.extensions)) for folder in settings.folders]
    if isinstance(settings, FurtherSpeechSettings):
        return _manifests(settings.manifests, settings)
    if isinstance(settings, FolderSettings):
        audio = [_sizes(audio_files(folder, settings.extensions)) for folder in settings.train]
        return [audio, _manifests([*settings.dev, *settings.test.values()], settings)]
    if isinstance(settings, ManifestSettings):
        return _manifests([*settings.train, *settings.dev, *settings.test.values()], settings)
    if isinstance(settings, An4Settings):
        folder, parts = find_an4(settings.root), ["audio", "etc", "wav"]
    else:
        folder, parts = find_librispeech(settings.root), sorted({*settings.train, *settings.dev, *settings.test})
    return [str(folder.resolve()), [entry for part in parts for entry in _listing(folder / part)]]


def _manifests(paths: Sequence[Path], settings: ManifestFiles) -> list[Any]:
    """Hashes of manifests, and sizes of the files that they name."""
    tables = [read_table(path, settings.format, settings.data_root, settings.row_channels) for path in paths]
    read = [[str(file.resolve()), sha256_of_file(file)] for table in tables for file in table.files]
    return [read, _sizes(recording.audio for table in tables for recording in table.recordings)]


def _sizes(paths: Iterable[Path]) -> list[tuple[str, int | None]]:
    """Bytes of files; None where there is no such file."""
    return [(str(path), size) for path, size in _of_files(lambda path: path.stat().st_size, sorted(set(paths))).items()]


def _listing(folder: Path) -> Iterator[tuple[str, int | None]]:
    """A folder's name, then its entries, files with their size in bytes."""
    if not folder.is_dir():
        return
    yield folder.name, None
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            yield f"{folder.name}/{path.name}", path.stat().st_size if path.is_file() else None


def audio_identities(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Return the identity of each utterance's audio, 16 hex digits, by id; empty where its file cannot be read.

    It covers the file's size, three blocks of it, the utterance's start and duration, and which channels are read.
    Paths are not part of it: corpora move between machines.
    """
    given = list(utterances)
    files = _of_files(_sampled_sha256, (utterance.audio for utterance in given))

    def identity(utterance: Utterance, file: str) -> str:
        parts = [file, round(utterance.start, 4), round(utterance.duration, 4)]
        if utterance.channels not in ("refuse", "first"):  # which are the same audio wherever both can be read
            parts.append(utterance.channels)
        return sha256_of(parts)[:16]

    return {u.id: identity(u, file) if (file := files[u.audio]) else "" for u in given}


def audio_sha256(utterances: Sequence[Utterance]) -> str:
    """Return one hash for the audio of several utterances, with their ids, in any order."""
    return sha256_of(sorted(audio_identities(utterances).items()))


def _sampled_sha256(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in (0, size // 2, max(size - BLOCK_BYTES, 0)):
            file.seek(start)
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def _of_files(read: Callable[[Path], T], paths: Iterable[Path]) -> dict[Path, T | None]:
    """What `read` returns for each file; None where it cannot be read."""

    def read_or_none(path: Path) -> T | None:
        try:
            return read(path)
        except OSError:
            return None

    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(unique, pool.map(read_or_none, unique), strict=True))
