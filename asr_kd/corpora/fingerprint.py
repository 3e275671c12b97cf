"""Fingerprint of a corpus on disk, by which prepare notices that files were added, removed or changed.

It consists of names and sizes; no audio is opened. Of a publisher's layout it goes two levels deep, so a file replaced
further down is not noticed, and `asr-kd prepare --force` is needed. Of a user's manifests and folders it covers every
file.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asr_kd.corpora.an4 import find_an4
from asr_kd.corpora.folder import audio_files
from asr_kd.corpora.formats.catalogue import read_table
from asr_kd.corpora.librispeech import find_librispeech
from asr_kd.corpora.settings import (
    An4Settings,
    AnyCorpus,
    FolderSettings,
    ManifestSettings,
    OwnSettings,
    SyntheticSettings,
    UntranscribedSettings,
)
from asr_kd.corpora.synthetic import settings_key
from asr_kd.files import sha256_of_file

THREADS = 8
"""Sizes are read in parallel, because most of the time is waiting for the disk."""


def fingerprint(settings: AnyCorpus) -> Any:
    """Return plain data that changes with the files of a corpus.

    Raises:
        CorpusError: the corpus is missing, or a manifest cannot be read.
    """
    if isinstance(settings, SyntheticSettings):
        return settings_key(settings)
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


def untranscribed_fingerprint(settings: UntranscribedSettings) -> Any:
    """Return the fingerprint of untranscribed audio.

    Raises:
        CorpusError: there is no such folder.
    """
    return [_sizes(audio_files(folder, settings.extensions)) for folder in settings.folders]


def _manifests(paths: Sequence[Path], settings: OwnSettings) -> list[Any]:
    """Hashes of manifests, and sizes of the files that they name."""
    tables = [read_table(path, settings.format, settings.data_root, settings.row_channels) for path in paths]
    read = [[str(file.resolve()), sha256_of_file(file)] for table in tables for file in table.files]
    return [read, _sizes(recording.audio for table in tables for recording in table.recordings)]


def _sizes(paths: Iterable[Path]) -> list[tuple[str, int | None]]:
    unique = sorted(set(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        return [(str(path), size) for path, size in zip(unique, pool.map(_size, unique), strict=True)]


def _size(path: Path) -> int | None:
    """Bytes; None where there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _listing(folder: Path) -> Iterator[tuple[str, int | None]]:
    """A folder's name, then its entries, files with their size in bytes."""
    if not folder.is_dir():
        return
    yield folder.name, None
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            yield f"{folder.name}/{path.name}", path.stat().st_size if path.is_file() else None
