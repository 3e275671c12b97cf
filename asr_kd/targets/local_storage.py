"""Storage in a folder of a local or network disk, with file locks.

A lock file names its owner. A lock is taken over when its owner has died on this machine, or has not refreshed it for
long on another.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from asr_kd.errors import TargetsError
from asr_kd.files import atomic_path, loads_json, register_files, sha256_of_file
from asr_kd.targets.base import Storage

GUARD = ".guard"
STALE_SECONDS = 1800.0
"""A lock of another machine that was not refreshed for so long is stale. If its owner is alive after all, the shard is
made twice, with the same bytes."""


class LocalStorage(Storage):
    """Folder on a local or network disk whose file locks work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def sizes(self) -> dict[str, int]:
        if not self.folder.is_dir():
            return {}
        return {path.name: path.stat().st_size for path in self.folder.iterdir() if path.is_file()}

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        with atomic_path(self.folder / name) as partial:
            partial.write_bytes(content)

    def sha256(self, name: str) -> str | None:
        try:
            return sha256_of_file(self.folder / name)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def checked(self, name: str, sha256: str) -> Path | None:
        return self.folder / name if self.sha256(name) == sha256 else None

    def clear(self, name: str) -> None:
        for leftover in self.folder.glob(f".{name}.*.partial"):
            leftover.unlink(missing_ok=True)

    def register(self, names: Iterable[str]) -> None:
        register_files(self.folder, names)

    def guard(self) -> AbstractContextManager[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return exclusive(self.folder)

    def acquire(self, name: str) -> str | None:
        return acquire_lock(self.folder / f"{name}.lock")

    def hold(self, name: str) -> None:
        with suppress(FileNotFoundError):  # another process took it over
            os.utime(self.folder / f"{name}.lock")

    def release(self, name: str) -> None:
        (self.folder / f"{name}.lock").unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Admit one process at a time; the system releases the lock when a process dies.

    Raises:
        TargetsError: the disk has no locks.
    """
    with (folder / GUARD).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise TargetsError(
                f"the disk does not lock files ({error.strerror})",
                where=folder,
                expected="a disk with working locks (flock)",
                remedy=f"Name the folder as file://{folder.absolute()}: it is used without locks then, and each worker "
                "must have a share of its own",
            ) from error
        yield


def acquire_lock(path: Path) -> str | None:
    """Acquire the lock `path`.

    Returns:
        None on success, else a description of the owner ("process 12 on host").
    """
    # The guard makes check, removal of a stale lock and creation one step.
    with exclusive(path.parent):
        if path.exists():
            owner = _read(path)
            if not _is_dead(owner, path):
                return f"process {owner['pid']} on {owner['host']} (lock {path})"
            path.unlink()
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        with os.fdopen(descriptor, "w") as file:
            me = {"pid": os.getpid(), "host": socket.gethostname(), "started": _start_of(os.getpid())}
            json.dump(me, file)
    return None


def _read(path: Path) -> dict[str, Any]:
    """Return the owner; empty when the writer was killed before it was written."""
    try:
        owner = loads_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) and {"pid", "host", "started"} <= owner.keys() else {}


def _is_dead(owner: dict[str, Any], path: Path) -> bool:
    if not owner:
        return True
    if owner["host"] != socket.gethostname():
        # Both times are of the disk's clock: machines' clocks differ.
        os.utime(path.parent / GUARD)
        return (path.parent / GUARD).stat().st_mtime - path.stat().st_mtime > STALE_SECONDS
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # alive, another user's
    # The same number may be another process by now, in a restarted container for example.
    return owner["started"] != _start_of(int(owner["pid"]))


def _start_of(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where that is not to be had."""
    try:
        # The command's name, in parentheses, may hold spaces: fields are counted after it (proc(5), field 22).
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
