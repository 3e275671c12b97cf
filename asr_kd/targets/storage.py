"""Open the storage of targets by path or URL."""

import os
import re
from pathlib import Path

from asr_kd.errors import TargetsError
from asr_kd.hub import is_repository, local_folder
from asr_kd.targets.local_storage import LocalStorage
from asr_kd.targets.s3_storage import RemoteStorage

Storage = LocalStorage | RemoteStorage
"""A flat folder of named files; `LocalStorage` documents the methods that both have."""

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*(::|://)")
BROKEN_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+:/[^/]")
"""A URL that was converted to a path: two slashes have become one."""


def open_storage(folder: Path | str | Storage) -> Storage:
    """Return the storage of a path, of a URL such as ``s3://bucket/folder``, or of ``hf:USER/NAME[@REVISION]``.

    A leading ``~`` is the home folder. ``file://`` is a folder used without locks, for shared disks whose locks do not
    work.

    Raises:
        TargetsError: a URL that was converted to a path and so lost a slash.
    """
    if isinstance(folder, Storage):
        return folder
    if is_repository(folder):
        return LocalStorage(local_folder(folder, "dataset"))
    if isinstance(folder, str) and URL.match(folder):
        return RemoteStorage(folder)
    if BROKEN_URL.match(str(folder)):
        raise TargetsError(
            f"the folder {str(folder)!r} looks like a URL that lost a slash",
            expected="a URL as text, such as s3://bucket/folder, or a path",
            remedy="Pass the URL as text, not as a path",
        )
    return LocalStorage(Path(os.path.expanduser(folder)))
