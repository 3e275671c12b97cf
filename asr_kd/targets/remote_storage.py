"""A store's files anywhere that fsspec reaches: s3://, gs://, memory://, file:// without locks, and the like.

What is read at random is kept in a local cache by its content's hash, so that nothing is ever out of date in there.
Knows nothing of what is inside.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

import fsspec
from fsspec.registry import known_implementations

from asr_kd.errors import AsrKdError, TargetsError
from asr_kd.files import atomic_path, sha256_of_file
from asr_kd.targets.storage import Storage

CACHE_VARIABLE = "ASR_KD_CACHE"
WRITES_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"})
"""Object stores: what is put there appears when all of it has arrived, and moving would mean copying."""


class RemoteStorage(Storage):
    """A folder behind a URL.

    There are no locks and claims: a shard is made by the worker whose share it is in, and two that made the same one
    would write the same bytes, each whole.

    Args:
        url: as fsspec takes it; credentials come from where the file system's driver looks for them.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.url)

    def sizes(self) -> dict[str, int]:
        """See `Place`."""
        with self._reaching() as (files, folder):
            files.invalidate_cache(folder)  # others write there
            try:
                rows = files.ls(folder, detail=True)
            except FileNotFoundError:
                return {}
        return {PurePosixPath(row["name"]).name: int(row["size"]) for row in rows if row["type"] == "file"}

    def read(self, name: str) -> bytes:
        """See `Place`."""
        with self._reaching() as (files, folder):
            content: bytes = files.cat_file(f"{folder}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        """See `Place`."""
        with self._reaching(to_write=True) as (files, folder):
            if _writes_whole(files):
                files.pipe_file(f"{folder}/{name}", content)
                return
            partial = f"{folder}/.{name}.{uuid4().hex[:12]}.partial"
            files.makedirs(folder, exist_ok=True)
            try:
                files.pipe_file(partial, content)
                files.mv(partial, f"{folder}/{name}")
            finally:
                with suppress(OSError):  # moved away, or never there
                    files.rm_file(partial)

    def sha256(self, name: str) -> str | None:
        """See `Place`."""
        try:
            return hashlib.sha256(self.read(name)).hexdigest()
        except FileNotFoundError:
            return None

    def checked(self, name: str, sha256: str) -> Path | None:
        """See `Place`; a copy in the cache, or the file itself where the place is a disk."""
        with self._reaching() as (files, folder):
            if getattr(files, "local_file", False):
                return Path(folder) / name if self.sha256(name) == sha256 else None
        cached = cache_folder() / f"{sha256}{PurePosixPath(name).suffix}"
        if cached.is_file() and sha256_of_file(cached) == sha256:
            return cached
        try:
            content = self.read(name)
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        with atomic_path(cached) as partial:
            partial.write_bytes(content)
        return cached

    def clear(self, name: str) -> None:
        """See `Place`."""
        with self._reaching() as (files, folder):
            if _writes_whole(files):
                return
            for found in self.sizes():
                if found.startswith(f".{name}.") and found.endswith(".partial"):
                    with suppress(FileNotFoundError):
                        files.rm_file(f"{folder}/{found}")

    def guard(self) -> AbstractContextManager[None]:
        """See `Place`; nobody is kept out."""
        return nullcontext()

    def acquire(self, name: str) -> str | None:
        """See `Place`; always ours."""
        return None

    def hold(self, name: str) -> None:
        """See `Place`; nothing to do."""

    def release(self, name: str) -> None:
        """See `Place`; nothing to do."""

    @contextmanager
    def _reaching(self, to_write: bool = False) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        """The file system and the folder's path in it; its trouble becomes what a user can act on.

        That something is not there is no trouble, unless it is to be written: then the bucket is missing.

        Opened anew each time: fsspec keeps the connection, but one of its own for each process and thread.
        """
        try:
            yield fsspec.core.url_to_fs(self.url)
        except AsrKdError:
            raise
        except FileNotFoundError as error:
            if not to_write:
                raise
            raise self._trouble(error) from error
        except ImportError as error:
            raise self._without_driver(error) from error
        except Exception as error:  # a driver's own classes: nobody can list them
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> TargetsError:
        return TargetsError(
            f"cannot be read or written ({type(error).__name__}: {error})",
            where=str(self),
            expected="a URL that fsspec knows, a bucket that exists, and credentials that may read and write there",
            remedy="Mend that, then run the same command again: finished shards are kept and usable",
        )

    def _without_driver(self, error: ImportError) -> TargetsError:
        protocol = re.split(r"::|://", self.url)[0]
        package = known_implementations.get(protocol, {}).get("class", "fsspec").split(".")[0]
        install = f"pip install {package}" if package != "fsspec" else "Install it"
        return TargetsError(
            f"the file system driver of {protocol}:// is not installed ({error})", where=str(self), remedy=install
        )


def cache_folder() -> Path:
    """Where copies of remote shards are kept; may be removed at any time."""
    beneath = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(beneath) / "asr-kd" / "shards")


def _writes_whole(files: fsspec.AbstractFileSystem) -> bool:
    protocols = (files.protocol,) if isinstance(files.protocol, str) else files.protocol
    return not WRITES_WHOLE.isdisjoint(protocols)
