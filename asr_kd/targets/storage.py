"""Open the storage of targets by path or URL, read the index of a store, report errors of writing.

Files appear whole or not at all.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from asr_kd.config import S, parse_settings
from asr_kd.errors import AsrKdError, RecipeError, TargetsError
from asr_kd.hub import is_repository, local_folder
from asr_kd.targets.base import Storage
from asr_kd.targets.local_storage import LocalStorage
from asr_kd.targets.s3_storage import RemoteStorage

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


@dataclass(frozen=True)
class IndexForm(Generic[S]):
    """What an index must look like, and the words for what it describes."""

    file: str
    format: str
    version: int
    kind: type[S]
    what: str
    made_by: str  # the command that makes such a folder
    make_again: str  # what to do about a damaged one


def read_index(storage: Storage, form: IndexForm[S]) -> S:
    """Read the index of a folder.

    Raises:
        TargetsError: not such a folder, of another version, or its index is damaged.
    """
    where = f"{storage}/{form.file}"
    try:
        data = storage.read_json(form.file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TargetsError(
            f"no {form.what} here",
            where=str(storage),
            expected=f"a folder with {form.file}",
            remedy=f"Run {form.made_by} first",
        ) from error
    except (OSError, ValueError) as error:
        raise TargetsError(
            f"cannot be read ({error})", where=where, expected="what was written", remedy=form.make_again
        ) from error
    if data.get("format") != form.format:
        raise TargetsError(f"does not describe {form.what}", where=where, remedy=form.make_again)
    if data.get("version") != form.version:
        raise TargetsError(
            f"format version {data.get('version')!r}",
            expected=f"version {form.version}",
            where=where,
            remedy=form.make_again,
        )
    try:
        return parse_settings(form.kind, data, where)
    except RecipeError as error:
        raise TargetsError(f"the description is damaged: {error.found}", where=where, remedy=form.make_again) from error


@contextmanager
def writing(storage: Storage) -> Iterator[None]:
    """Convert errors of writing to `TargetsError` with a remedy."""
    try:
        yield
    except (OSError, AsrKdError) as error:
        if isinstance(error, AsrKdError) and type(error) is not AsrKdError:
            raise  # more specific
        raise TargetsError(
            error.found if isinstance(error, AsrKdError) else f"cannot be written ({error.strerror or error})",
            where=(error.where if isinstance(error, AsrKdError) else "") or str(storage),
            expected="a folder that can be written, with space left",
            remedy="Free some space, then run the same command again: finished shards are kept and usable",
        ) from error
