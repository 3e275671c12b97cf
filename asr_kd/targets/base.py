"""Interface to the storage of targets."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from asr_kd.files import json_text, parse_json


class Storage(ABC):
    """Interface to a flat folder of named files."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the location for messages, without a password."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Return name → bytes of all files; empty when the folder does not exist."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; the folder is created when missing.

        Raises:
            AsrKdError: the disk is full, or the location cannot be written.
        """

    @abstractmethod
    def sha256(self, name: str) -> str | None:
        """Return the hash of a file as it is now; None when it does not exist."""

    @abstractmethod
    def checked(self, name: str, sha256: str) -> Path | None:
        """Return a local file with exactly this content; None when the stored file differs or is missing."""

    @abstractmethod
    def clear(self, name: str) -> None:
        """Remove temporary files that interrupted writers of a file have left."""

    @abstractmethod
    def guard(self) -> AbstractContextManager[None]:
        """Admit one process at a time; without effect where the storage has no locks."""

    @abstractmethod
    def acquire(self, name: str) -> str | None:
        """Lock a shard; return None on success, else a description of the owner. Always succeeds without locks."""

    @abstractmethod
    def hold(self, name: str) -> None:
        """Refresh a lock that `acquire` gave to this process."""

    @abstractmethod
    def release(self, name: str) -> None:
        """Release a lock that `acquire` gave to this process."""

    @abstractmethod
    def register(self, names: Iterable[str]) -> None:
        """Record files that are about to be written where users may keep files of their own.

        Raises:
            AsrKdError: one of them exists and asr-kd did not write it.
        """

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write JSON with the hash of its content; see `asr_kd.files.json_text`."""
        self.write(name, json_text(data).encode())

    def read_json(self, name: str) -> dict[str, Any]:
        """Read JSON of `write_json` and verify its hash.

        Raises:
            FileNotFoundError: there is none.
            ValueError: not JSON, not an object, or damaged.
        """
        return parse_json(self.read(name))
