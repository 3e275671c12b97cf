"""Storage behind s3://, gs://, az:// and any other URL that fsspec reaches.

What is read at random is cached on the local disk by the hash of its content, so the cache never holds outdated files.
Files appear whole or not at all.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

import fsspec
from fsspec.registry import known_implementations

from asr_kd.errors import AsrKdError, TargetsError
from asr_kd.files import atomic_path, sha256_of_file

CACHE_VARIABLE = "ASR_KD_CACHE"
WRITES_WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "memory"})
"""Object stores: an object appears when its upload is complete, and moving it would copy it."""


class RemoteStorage:
    """Folder behind a URL; see `LocalStorage` for its methods.

    There are no locks: a shard is written by the worker whose share contains it. Two workers with the same share write
    the same bytes. The file system's driver finds the credentials.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def __str__(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.url)

    def sizes(self) -> dict[str, int]:
        with self._connected() as (files, folder):
            files.invalidate_cache(folder)  # other processes write there
            try:
                rows = [row for row in files.ls(folder, detail=True) if row["type"] == "file"]
            except FileNotFoundError:
                return {}
            # Listings over HTTP state no sizes.
            sizes = [files.size(row["name"]) if row["size"] is None else row["size"] for row in rows]
        return {PurePosixPath(row["name"]).name: int(size) for row, size in zip(rows, sizes, strict=True)}

    def read(self, name: str) -> bytes:
        with self._connected() as (files, folder):
            content: bytes = files.cat_file(f"{folder}/{name}")
        return content

    def write(self, name: str, content: bytes) -> None:
        with self._connected(to_write=True) as (files, folder):
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
        try:
            return hashlib.sha256(self.read(name)).hexdigest()
        except FileNotFoundError:
            return None

    def checked(self, name: str, sha256: str) -> Path | None:
        with self._connected() as (files, folder):
            if getattr(files, "local_file", False):
                return Path(folder) / name if self.sha256(name) == sha256 else None
        cached = cache_folder() / f"{sha256}{PurePosixPath(name).suffix}"
        with suppress(OSError):  # not there, or deleted just now
            if sha256_of_file(cached) == sha256:
                return cached
        try:
            content = self.read(name)
        except FileNotFoundError:
            return None
        if hashlib.sha256(content).hexdigest() != sha256:
            return None
        try:
            with atomic_path(cached) as partial:
                partial.write_bytes(content)
        except AsrKdError as error:
            raise TargetsError(
                error.found,
                where=error.where,
                expected="a folder for copies of remote shards that can be written, with space left",
                remedy=f"Free some space there, or name another folder in the environment variable {CACHE_VARIABLE}",
            ) from error
        return cached

    def clear(self, name: str) -> None:
        with self._connected() as (files, folder):
            if _writes_whole(files):
                return
            for found in self.sizes():
                if found.startswith(f".{name}.") and found.endswith(".partial"):
                    with suppress(FileNotFoundError):
                        files.rm_file(f"{folder}/{found}")

    def register(self, names: Iterable[str]) -> None:
        """Do nothing: remote storage keeps no list of written files."""

    def guard(self) -> AbstractContextManager[None]:
        return nullcontext()

    def acquire(self, name: str) -> str | None:
        return None

    def release(self, name: str) -> None:
        """Do nothing: there are no locks."""

    @contextmanager
    def _connected(self, to_write: bool = False) -> Iterator[tuple[fsspec.AbstractFileSystem, str]]:
        """Return the file system and the folder's path in it; convert a driver's errors to `TargetsError`.

        A missing file stays a `FileNotFoundError`, except on writing, where it means a missing bucket. fsspec keeps
        one connection for each process and thread, so this is called for each operation.
        """
        try:
            yield fsspec.core.url_to_fs(self.url)
        except AsrKdError:
            raise
        except FileNotFoundError as error:
            if not to_write:
                raise
            raise self._access_error(error) from error
        except ImportError as error:
            raise self._missing_driver(error) from error
        except Exception as error:  # drivers raise classes of their own
            raise self._access_error(error) from error

    def _access_error(self, error: Exception) -> TargetsError:
        return TargetsError(
            f"cannot be read or written ({type(error).__name__}: {error})",
            where=str(self),
            expected="a URL scheme of fsspec, a bucket that exists, and credentials that may read and write there",
            remedy="Correct the cause, then run the same command again: finished shards are kept and usable",
        )

    def _missing_driver(self, error: ImportError) -> TargetsError:
        protocol = re.split(r"::|://", self.url)[0]
        package = known_implementations.get(protocol, {}).get("class", "fsspec").split(".")[0]
        install = f"pip install {package}" if package != "fsspec" else "Install it"
        return TargetsError(
            f"the file system driver of {protocol}:// is not installed ({error})", where=str(self), remedy=install
        )


def cache_folder() -> Path:
    """Return the folder of cached remote shards; it may be deleted at any time."""
    parent = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE_VARIABLE) or Path(parent) / "asr-kd" / "shards")


def _writes_whole(files: fsspec.AbstractFileSystem) -> bool:
    protocols = (files.protocol,) if isinstance(files.protocol, str) else files.protocol
    return not WRITES_WHOLE.isdisjoint(protocols)
