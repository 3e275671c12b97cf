"""One run at a time at a unit of work: a lock that goes when its process dies. Knows nothing of the work."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from asr_kd.errors import AsrKdError

PATIENCE_SECONDS = 5.0
"""How long another run may hold it: finding a unit done takes less, doing it more."""


@contextmanager
def alone(path: Path, label: str, patience_seconds: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold the lock `path` meanwhile. On a disk without locks nobody is kept out.

    Args:
        path: the lock's file, made if need be and left there.
        label: how the work is called in messages.
        patience_seconds: how long to wait for another run.

    Raises:
        AsrKdError: another run is at it, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise AsrKdError(f"cannot be written ({error.strerror or error})", where=path) from error
    with file:
        _take(file, path, label, time.monotonic() + patience_seconds)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take(file: IO[str], path: Path, label: str, until: float) -> None:
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return
            if time.monotonic() < until:
                time.sleep(0.05)
                continue
            file.seek(0)
            raise AsrKdError(
                f"another run is at it now (process {file.read().strip() or 'unknown'})",
                where=f"{label} ({path})",
                expected="one run at a time",
                remedy="Wait until that run is done, stop it, or name another work_dir",
            ) from error
        else:
            return
