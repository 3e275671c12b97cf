"""LibriSpeech from its publisher: torchaudio's own downloader, its addresses and its checksums.

A split appears whole or not at all; one that is there is left alone, and an archive that is there is not fetched
again, so that a call that was cut off goes on with the split it was at.
"""

import http.client
import os
import shutil
import socket
import sys
import tarfile
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchaudio.datasets import librispeech as publisher

from asr_kd.corpora.librispeech import find_librispeech, present_splits
from asr_kd.corpora.settings import LIBRISPEECH_SPLITS
from asr_kd.errors import CorpusError
from asr_kd.files import sha256_of_file

LIBRISPEECH = "LibriSpeech"
"""The folder inside the archives, and the one that holds the splits."""

TIMEOUT_SECONDS = 60.0
"""Of silence on the line, after which a download is given up."""

_SUFFIX = ".tar.gz"


@dataclass(frozen=True)
class Archive:
    """A split as its publisher offers it."""

    split: str
    url: str
    sha256: str


def archives(splits: Sequence[str]) -> list[Archive]:
    """Where splits come from, as torchaudio knows it.

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
    """The folder of the splits, below `into` or `into` itself; where it will be if there is none yet."""
    try:
        return find_librispeech(into)
    except CorpusError:
        return into / LIBRISPEECH


def missing_splits(splits: Sequence[str], into: Path) -> list[str]:
    """Those of the splits that are not there.

    Raises:
        CorpusError: no such split.
    """
    present = present_splits(librispeech_folder(into))
    return [archive.split for archive in archives(splits) if archive.split not in present]


def download_librispeech(splits: Sequence[str], into: Path, say: Callable[[str], None]) -> Path:
    """Fetch, verify and unpack splits; returns the folder that holds them.

    Args:
        splits: by their own names; those that are there are left alone.
        into: the folder that LibriSpeech/ is, or will be, in. Archives lie there while they are needed.
        say: told what happens, a line each.

    Raises:
        CorpusError: no such split, no network, or an archive that is not the publisher's.
        OSError: the disk is full or cannot be written; finished splits stay.
    """
    folder, absent = librispeech_folder(into), missing_splits(splits, into)
    for archive in archives(splits):
        if archive.split not in absent:
            say(f"{archive.split}: is there")
            continue
        path = into / f"{archive.split}{_SUFFIX}"
        if path.exists():
            say(f"{archive.split}: the archive is there; its checksum is compared")
            _verify(archive, path)
        else:
            say(f"{archive.split}: fetching {archive.url}")
            _fetch(archive, path)
        say(f"{archive.split}: unpacking")
        _unpack(archive.split, path, folder)
        path.unlink()
    return folder


def _fetch(archive: Archive, path: Path) -> None:
    """Torchaudio's download, which compares the checksum before the archive takes its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _timeout(TIMEOUT_SECONDS):
            publisher.download_url_to_file(archive.url, str(path), archive.sha256, progress=sys.stderr.isatty())
    except RuntimeError as error:  # "invalid hash value": torch has no class of its own for it
        raise _wrong_checksum(archive, archive.url, str(error)) from error
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise CorpusError(
            f"cannot be fetched ({getattr(error, 'reason', None) or error})",
            where=archive.url,
            expected="the publisher's archive",
            remedy=(
                f"Run the same command again when there is a network; or fetch it elsewhere (curl -LO {archive.url}), "
                f"put it at {path} and run the same command: its checksum is compared"
            ),
        ) from error


def _verify(archive: Archive, path: Path) -> None:
    found = sha256_of_file(path)
    if found != archive.sha256:
        raise _wrong_checksum(archive, str(path), f"SHA-256 {found}")


def _wrong_checksum(archive: Archive, where: str, found: str) -> CorpusError:
    return CorpusError(
        f"is not the publisher's archive, or not all of it ({found})",
        where=where,
        expected=f"SHA-256 {archive.sha256}",
        remedy="Remove what is there and fetch it again; a connection that breaks off leaves a part",
    )


def _unpack(split: str, path: Path, folder: Path) -> None:
    """LibriSpeech/SPLIT of the archive into `folder`; speakers' tables and the like beside it, once."""
    unpacking = folder / f".{split}.unpacking"
    shutil.rmtree(unpacking, ignore_errors=True)  # of a call that was cut off
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
    """The downloader sets none of its own and would wait for ever on a dead line."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
