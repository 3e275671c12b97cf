"""Storage in a folder of a local or network disk, with file locks, which the system releases when a process dies."""

import fcntl
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from asr_kd.errors import AsrKdError, TargetsError
from asr_kd.files import atomic_path, register_files, sha256_of_file

GUARD = ".guard"


class NoLocksError(TargetsError):
    """The disk does not lock files."""


class LocalStorage:
    """Flat folder of named files on a local or network disk whose file locks work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks: dict[str, IO[str]] = {}

    def __str__(self) -> str:
        return str(self.folder)

    def sizes(self) -> dict[str, int]:
        """Return name → bytes of all files; empty when the folder does not exist."""
        if not self.folder.is_dir():
            return {}
        found = {path.name: _status(path) for path in self.folder.iterdir()}
        return {name: status.st_size for name, status in found.items() if status and stat.S_ISREG(status.st_mode)}

    def read(self, name: str) -> bytes:
        """Return a file's content; a FileNotFoundError when there is none."""
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; the folder is created when missing.

        Raises:
            TargetsError: the disk is full, or the location cannot be written.
        """
        with self._writing(), atomic_path(self.folder / name) as partial:
            partial.write_bytes(content)

    def sha256(self, name: str) -> str | None:
        """Return the hash of a file as it is now; None when it does not exist."""
        try:
            return sha256_of_file(self.folder / name)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def checked(self, name: str, sha256: str) -> Path | None:
        """Return a local file with exactly this content; None when the stored file differs or is missing."""
        return self.folder / name if self.sha256(name) == sha256 else None

    def clear(self, name: str) -> None:
        """Remove temporary files that interrupted writers of a file have left."""
        for leftover in self.folder.glob(f".{name}.*.partial"):
            leftover.unlink(missing_ok=True)

    def register(self, names: Iterable[str]) -> None:
        """Record files that are about to be written where users may keep files of their own.

        Raises:
            AsrKdError: one of them exists and asr-kd did not write it.
        """
        register_files(self.folder, names)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Admit one process at a time.

        Raises:
            NoLocksError: the disk has no locks.
            TargetsError: the folder cannot be written.
        """
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / GUARD).open("w")
        with file:
            self._lock(file, fcntl.LOCK_EX)
            yield

    def acquire(self, name: str) -> str | None:
        """Lock a shard; return None on success, else a description of the owner ("process 12 on host").

        Raises:
            NoLocksError: the disk has no locks.
            TargetsError: the folder cannot be written.
        """
        path = self.folder / f"{name}.lock"
        while True:
            with self._writing():
                file = path.open("a+", encoding="utf-8")
            try:
                self._lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    return f"{file.read() or 'another process'} (lock {path})"
            except NoLocksError:
                file.close()
                raise
            if _is_at(file, path):
                break
            file.close()  # its owner removed it between our opening and locking it: the lock would exclude nobody
        try:
            with self._writing():  # unbuffered: closing the file has nothing left to write, whatever fails here
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        except TargetsError:
            file.close()  # releases the lock
            raise
        self._locks[name] = file
        return None

    def release(self, name: str) -> None:
        """Release a lock that `acquire` gave to this process."""
        (self.folder / f"{name}.lock").unlink(missing_ok=True)
        self._locks.pop(name).close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, AsrKdError) as error:
            raise TargetsError(
                error.found if isinstance(error, AsrKdError) else f"cannot be written ({error.strerror or error})",
                where=error.where if isinstance(error, AsrKdError) else self.folder,
                expected="a folder that can be written, with space left",
                remedy="Free some space, then run the same command again: finished shards are kept and usable",
            ) from error

    def _lock(self, file: IO[str], operation: int) -> None:
        try:
            fcntl.flock(file, operation)
        except (BlockingIOError, PermissionError) as error:  # some network disks report a held lock as EACCES
            raise BlockingIOError(*error.args) from error
        except OSError as error:
            raise NoLocksError(
                f"the disk does not lock files ({error.strerror})",
                where=self.folder,
                expected="a disk with working locks (flock)",
                remedy=f"Name the folder as file://{self.folder.absolute()}: it is used without locks then, and each "
                "worker must have a share of its own",
            ) from error


def _is_at(file: IO[str], path: Path) -> bool:
    """Return whether an open file still has its name."""
    status = _status(path)
    return status is not None and os.path.samestat(os.fstat(file.fileno()), status)


def _status(path: Path) -> os.stat_result | None:
    """Return a file's status; None where it is gone, such as a temporary file or a lock of another process."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None
