"""LibriSpeech: its layout, SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside audio files, and its download.

Any subset of splits, any audio format that the project reads. Splits are downloaded with torchaudio's downloader,
addresses and checksums. A split appears whole or not at all; splits and archives that are present are not downloaded
again, so an interrupted call can be repeated."""

import http.client
import os
import shutil
import socket
import sys
import tarfile
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torchaudio.datasets import librispeech as publisher

from asr_kd.corpora.manifest import read_text
from asr_kd.corpora.recordings import Exclusion, Recording
from asr_kd.corpora.settings import LIBRISPEECH_SPLITS, corpora_root
from asr_kd.errors import CorpusError
from asr_kd.files import sha256_of_file

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")
"""Of several files with one name, the first of these is taken."""

_TRANSCRIPTS = ".trans.txt"


def find_librispeech(root: Path | None) -> Path:
    """Find the folder of the splits: `root`, `root`/LibriSpeech (in any case), or the same under ASR_KD_CORPORA.

    Raises:
        CorpusError: neither holds any split.
    """
    parent = corpora_root(root)
    below = sorted(path for path in parent.iterdir() if path.name.lower() == "librispeech")
    for folder in (parent, *below):
        if present_splits(folder):
            return folder
    raise CorpusError(
        "LibriSpeech not found",
        where=parent,
        expected="folders such as train-clean-100 in it or in LibriSpeech/ below it",
        remedy="Unpack the splits there, or set corpus.root",
    )


def present_splits(folder: Path) -> list[str]:
    """Return the names of the official splits in a folder."""
    return [split for split in LIBRISPEECH_SPLITS if (folder / split).is_dir()]


def require_splits(
    folder: Path, splits: Sequence[str], remedy: str = "Unpack the missing splits, or name those that are present"
) -> None:
    """Require splits; a CorpusError names those that are missing, and those that are present."""
    missing = [split for split in splits if not (folder / split).is_dir()]
    if missing:
        here = ", ".join(present_splits(folder)) or "none"
        raise CorpusError(
            f"{', '.join(missing)} not found",
            where=folder,
            expected=f"a folder for each split that is needed (found: {here})",
            remedy=remedy,
        )


def read_split(folder: Path, split: str) -> tuple[list[Recording], list[Exclusion]]:
    """Read a split, ordered by id, and list transcripts without audio and audio without transcript.

    Raises:
        CorpusError: a transcript file cannot be read or gives an id twice.
    """
    recordings: list[Recording] = []
    unmatched: list[Exclusion] = []
    for chapter in sorted(path for path in (folder / split).glob("*/*") if path.is_dir()):
        audio = _audio_files(chapter)
        texts = _read_transcripts(chapter)
        for utterance_id in sorted(audio.keys() | texts.keys()):
            if utterance_id not in audio:
                expected = chapter / f"{utterance_id}{AUDIO_SUFFIXES[0]}"
                unmatched.append(Exclusion(utterance_id, expected, "has a transcript but no audio"))
            elif utterance_id not in texts:
                unmatched.append(Exclusion(utterance_id, audio[utterance_id], "has audio but no transcript"))
            else:
                text = texts[utterance_id]
                recordings.append(Recording(utterance_id, audio[utterance_id], text, chapter.parent.name))
    return sorted(recordings, key=lambda recording: recording.id), unmatched


def _audio_files(chapter: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in chapter.iterdir():
        suffix = path.suffix.lower()
        if suffix not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        known = files.get(path.stem)
        if known is None or AUDIO_SUFFIXES.index(suffix) < AUDIO_SUFFIXES.index(known.suffix.lower()):
            files[path.stem] = path
    return files


def _read_transcripts(chapter: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in sorted(chapter.glob(f"*{_TRANSCRIPTS}")):
        if path.name.startswith("."):
            continue
        lines = read_text(path, "lines of an id and its words", "Unpack the split again").splitlines()
        for row, line in enumerate(lines, start=1):
            utterance_id, *words = line.split() or [""]
            if utterance_id in texts:
                raise CorpusError(
                    f"the id {utterance_id!r} occurs twice", where=f"{path}:{row}", expected="each id once in a chapter"
                )
            if utterance_id:
                texts[utterance_id] = " ".join(words)
    return texts


LIBRISPEECH = "LibriSpeech"
"""Folder inside the archives, and of the splits."""

TIMEOUT_SECONDS = 60.0
"""Time without data after which a download fails."""

_SUFFIX = ".tar.gz"


class Archive(NamedTuple):
    """Archive of a split."""

    split: str
    url: str
    sha256: str


def archives(splits: Sequence[str]) -> list[Archive]:
    """Return the archives of splits, from torchaudio's list.

    Raises:
        CorpusError: no such split.
    """
    known = {
        url.rsplit("/", 1)[-1].removesuffix(_SUFFIX): (url, sha256) for url, sha256 in publisher._CHECKSUMS.items()
    }
    unknown = [split for split in splits if split not in known]
    if unknown:
        raise CorpusError(
            f"LibriSpeech has no split {unknown[0]!r}", expected=f"some of {', '.join(LIBRISPEECH_SPLITS)}"
        )
    return [Archive(split, *known[split]) for split in dict.fromkeys(splits)]


def librispeech_folder(into: Path) -> Path:
    """Return the folder of the splits, below `into` or `into` itself; its future path if there is none yet."""
    try:
        return find_librispeech(into)
    except CorpusError:
        return into / LIBRISPEECH


def missing_splits(splits: Sequence[str], into: Path) -> list[str]:
    """Return the splits that are missing.

    Raises:
        CorpusError: no such split.
    """
    present = present_splits(librispeech_folder(into))
    return [archive.split for archive in archives(splits) if archive.split not in present]


def download_librispeech(splits: Sequence[str], into: Path, report: Callable[[str], None]) -> Path:
    """Download, verify and unpack splits; return their folder.

    Raises:
        CorpusError: no such split, no network, or an archive that is not the publisher's.
        OSError: the disk is full or cannot be written; finished splits stay.
    """
    folder, absent = librispeech_folder(into), missing_splits(splits, into)
    for archive in archives(splits):
        if archive.split not in absent:
            report(f"{archive.split}: present")
            continue
        path = into / f"{archive.split}{_SUFFIX}"
        if path.exists():
            report(f"{archive.split}: archive present; comparing its checksum")
            found = sha256_of_file(path)
            if found != archive.sha256:
                raise _wrong_checksum(archive, str(path), f"SHA-256 {found}")
        else:
            report(f"{archive.split}: downloading {archive.url}")
            _fetch(archive, path)
        report(f"{archive.split}: unpacking")
        _unpack(archive.split, path, folder)
        path.unlink()
    return folder


def _fetch(archive: Archive, path: Path) -> None:
    """Download with torchaudio, which compares the checksum before the archive gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _timeout(TIMEOUT_SECONDS):
            publisher.download_url_to_file(archive.url, str(path), archive.sha256, progress=sys.stderr.isatty())
    except RuntimeError as error:  # "invalid hash value" has no class of its own in torch
        raise _wrong_checksum(archive, archive.url, str(error)) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise CorpusError(
            f"cannot be downloaded ({getattr(error, 'reason', None) or error})",
            where=archive.url,
            expected="the publisher's archive",
            remedy=(
                f"Run the same command again with a network connection; or download it elsewhere "
                f"(curl -LO {archive.url}), put it at {path} and run the same command"
            ),
        ) from error


def _wrong_checksum(archive: Archive, where: str, found: str) -> CorpusError:
    return CorpusError(
        f"is not the publisher's archive, or not all of it ({found})",
        where=where,
        expected=f"SHA-256 {archive.sha256}",
        remedy="Remove the file and download it again",
    )


def _unpack(split: str, path: Path, folder: Path) -> None:
    """Unpack LibriSpeech/SPLIT into `folder`, with the tables of speakers beside it."""
    unpacking = folder / f".{split}.unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)  # of an interrupted call
    unpacking.mkdir(parents=True)
    try:
        with tarfile.open(path) as archive:
            archive.extractall(unpacking, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise CorpusError(f"cannot be unpacked ({error})", where=path, expected="a tar archive") from error
    inside = unpacking / LIBRISPEECH
    if not (inside / split).is_dir():
        raise CorpusError(f"holds no {LIBRISPEECH}/{split}", where=path, expected="the publisher's archive")
    os.sync()  # once, and not for each of 100,000 files
    for table in inside.iterdir():
        if table.is_file() and not (folder / table.name).exists():
            table.rename(folder / table.name)
    (inside / split).rename(folder / split)
    shutil.rmtree(unpacking)


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    """Set a socket timeout: the downloader has none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
