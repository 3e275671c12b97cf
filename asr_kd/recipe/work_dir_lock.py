"""A file lock that lets one run at a time work on a task; the system releases it when the process ends."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from asr_kd.errors import AsrKdError

TIMEOUT_SECONDS = 5.0
"""Time for another run to find the task done and release the lock."""


@contextmanager
def hold_lock(path: Path, label: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """Hold the lock at `path` inside the block. File systems without locks exclude nobody.

    Args:
        path: the lock file; created if missing, and not removed.
        label: name of the task in messages.
        timeout_seconds: how long to wait for another run.

    Raises:
        AsrKdError: another run holds the lock, or the file cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise AsrKdError(f"cannot be written ({error.strerror or error})", where=path) from error
    with file:
        _acquire(file, path, label, time.monotonic() + timeout_seconds)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _acquire(file: IO[str], path: Path, label: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            file.seek(0)
            raise AsrKdError(
                f"another run is working on it (process {file.read().strip() or 'unknown'})",
                where=f"{label} ({path})",
                expected="one run at a time",
                remedy="Wait until that run ends, stop it, or name another work_dir",
            ) from error
        else:
            return
