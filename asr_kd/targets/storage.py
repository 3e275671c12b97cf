"""Where a store's files lie: a folder on a disk, or any place that fsspec reaches, by one small set of operations.

Files appear whole or not at all. Knows nothing of what is inside.
"""

import json
import os
import re
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from asr_kd.errors import TargetsError
from asr_kd.files import atomic_path, sha256_of_file
from asr_kd.targets import locks

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::|://)")
BROKEN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/[^/]")
"""What is left of a URL that was taken for a path: two slashes have become one."""


class Storage(ABC):
    """A flat folder of named files."""

    @abstractmethod
    def __str__(self) -> str:
        """For people; without a password."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Name → bytes of all files; none when the folder is not there."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Put a file there, whole or not at all; the folder is made when missing.

        Raises:
            AsrKdError: the disk is full, or the place cannot be written.
        """

    @abstractmethod
    def sha256(self, name: str) -> str | None:
        """Hash of a file as it lies there now; None when there is none."""

    @abstractmethod
    def checked(self, name: str, sha256: str) -> Path | None:
        """A file on this machine's disk with exactly this content; None when the place has another, or none."""

    @abstractmethod
    def clear(self, name: str) -> None:
        """Remove what interrupted writers of a file left behind."""

    @abstractmethod
    def guard(self) -> AbstractContextManager[None]:
        """One process at a time in here, where the place can see to that; otherwise all at once."""

    @abstractmethod
    def acquire(self, name: str) -> str | None:
        """Claim a piece of work; None when it is ours, else who has it. A place without locks gives it to anyone."""

    @abstractmethod
    def hold(self, name: str) -> None:
        """Say that we are still at work on what we claimed."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Give up a claim that `acquire` gave us."""

    def write_json(self, name: str, data: Any) -> None:
        """Put JSON there: indented, keys in the order given."""
        self.write(name, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


class LocalStorage(Storage):
    """A folder on a disk whose locks work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def sizes(self) -> dict[str, int]:
        """See `Place`."""
        if not self.folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.is_file()}

    def read(self, name: str) -> bytes:
        """See `Place`."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """See `Place`."""
        with atomic_path(self.folder / name) as partial:
            partial.write_bytes(content)

    def sha256(self, name: str) -> str | None:
        """See `Place`."""
        try:
            return sha256_of_file(self.folder / name)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def checked(self, name: str, sha256: str) -> Path | None:
        """See `Place`; the file itself."""
        return self.folder / name if self.sha256(name) == sha256 else None

    def clear(self, name: str) -> None:
        """See `Place`."""
        for leftover in self.folder.glob(f".{name}.*.partial"):
            leftover.unlink(missing_ok=True)

    def guard(self) -> AbstractContextManager[None]:
        """See `Place`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return locks.guard(self.folder)

    def acquire(self, name: str) -> str | None:
        """See `Place`."""
        return locks.acquire(self.folder / f"{name}.claim")

    def hold(self, name: str) -> None:
        """See `Place`."""
        locks.hold(self.folder / f"{name}.claim")

    def release(self, name: str) -> None:
        """See `Place`."""
        locks.release(self.folder / f"{name}.claim")


def open_storage(folder: Path | str | Storage) -> Storage:
    """The place that a path, or a URL such as ``s3://bucket/folder``, names.

    A leading ``~`` is the home folder. ``file://`` names a folder too, used without locks: for shared disks whose
    locks cannot be trusted.

    Raises:
        TargetsError: a URL that was taken for a path and so lost a slash.
    """
    if isinstance(folder, Storage):
        return folder
    if isinstance(folder, str) and URL.match(folder):
        from asr_kd.targets.remote_storage import RemoteStorage  # it builds upon this file

        return RemoteStorage(folder)
    if BROKEN_URL.match(str(folder)):
        raise TargetsError(
            f"the folder {str(folder)!r} looks like a URL that lost a slash",
            expected="a URL as text, such as s3://bucket/folder, or a path",
            remedy="Hand the URL over as it is, not as a path",
        )
    return LocalStorage(Path(os.path.expanduser(folder)))
