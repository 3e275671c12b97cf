"""Files and folders that appear complete or not at all, never replace files of others, and have hashes.

Results are written to a temporary neighbour, flushed to the disk, and renamed. A folder that users may name, or put
files into, lists the files written there in `WRITTEN`; other files in it are not replaced or deleted. JSON carries the
hash of its own content, so that a flipped bit is an error and never another value.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from asr_kd.errors import AsrKdError, examples

WRITTEN = ".asr-kd-files"
"""Lists the files in a folder that asr-kd wrote: relative paths, one a line."""

FEW_BYTES = 1_000_000
"""A folder with less free space counts as full."""

CONTENT_SHA256 = "content_sha256"
"""Key of a JSON object that holds the hash of all others."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary neighbour to write to; it takes the name `path` when the block ends without an error.

    Raises:
        AsrKdError: the disk is full or the folder cannot be written; what stood at `path` is untouched.
    """
    _make_parent(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, guard: bool = False) -> Iterator[Path]:
    """Yield a temporary folder to fill; it replaces `folder` when the block ends without an error.

    Args:
        folder: the folder to write.
        guard: refuse to replace a folder with files that are not listed in its `WRITTEN`, and write that list.

    Raises:
        AsrKdError: `folder` holds other files, the disk is full or the folder cannot be written; an existing
            `folder` is then untouched.
    """
    if guard:
        refuse_other_files(folder)
    _make_parent(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.replaced")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        yield partial
        if guard:
            names = sorted(path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file())
            (partial / WRITTEN).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        if folder.exists():
            folder.rename(replaced)
        partial.rename(folder)
    except OSError as error:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        raise _write_error(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def written_files(folder: Path) -> set[str]:
    """Relative paths of the files that asr-kd wrote into a folder; empty without a list."""
    try:
        return set((folder / WRITTEN).read_text(encoding="utf-8").splitlines())
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except (OSError, UnicodeDecodeError) as error:
        raise AsrKdError(f"cannot be read ({error})", where=folder / WRITTEN, expected="a list of files") from error


def refuse_other_files(folder: Path) -> None:
    """Check that a folder can be replaced as a whole: an AsrKdError for a file, or other files in it."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise AsrKdError("is a file", where=folder, expected="a new or empty folder", remedy="Choose another folder")
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    others = sorted(found - written_files(folder) - {WRITTEN})
    if others:
        raise AsrKdError(
            f"holds files that asr-kd did not write there: {examples(others)}",
            where=folder,
            expected="a new or empty folder, or one that the same command wrote",
            remedy="Choose another folder, or move these files elsewhere",
        )


def register_files(folder: Path, names: Iterable[str]) -> None:
    """Check that files may be written into a folder that can hold other files, and list them in its `WRITTEN`.

    Raises:
        AsrKdError: one of the files exists and asr-kd did not write it, or the list cannot be written.
    """
    known = written_files(folder)
    new = [name for name in dict.fromkeys(names) if name not in known]
    for name in new:
        if (folder / name).exists():
            raise AsrKdError(
                "exists, and asr-kd did not write it",
                where=folder / name,
                expected="a new file, or one that asr-kd wrote",
                remedy="Choose another name or folder, or move the file elsewhere",
            )
    if new:
        _make_parent(folder / WRITTEN)
        try:
            with (folder / WRITTEN).open("a", encoding="utf-8") as file:
                file.write("".join(f"{name}\n" for name in new))
        except OSError as error:
            raise _write_error(folder / WRITTEN, error) from error


def release_files(folder: Path, names: Iterable[str]) -> None:
    """Delete files that asr-kd wrote into a folder, and take them off its list: others may have these names later.

    Raises:
        AsrKdError: the folder cannot be written.
    """
    known = written_files(folder)
    gone = known & set(names)
    for name in gone:
        (folder / name).unlink(missing_ok=True)
    if gone:
        write_text(folder / WRITTEN, "".join(f"{name}\n" for name in sorted(known - gone)))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def hashed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data, as JSON keeps it, with the hash of its content."""
    plain = json.loads(json.dumps(data, ensure_ascii=False))
    plain.pop(CONTENT_SHA256, None)
    return {**plain, CONTENT_SHA256: sha256_of(plain)}


def unhashed(data: Any) -> dict[str, Any]:
    """Return the data that `hashed` was given; a ValueError for no object, or with another hash than it states."""
    if not isinstance(data, dict):
        raise ValueError(f"holds no object but {type(data).__name__}")
    stated = data.pop(CONTENT_SHA256, None)
    if stated is None:
        raise ValueError(f"states no {CONTENT_SHA256}")
    if stated != sha256_of(data):
        raise ValueError(f"has another {CONTENT_SHA256} than it states: it is damaged, or was changed by hand")
    return data


def json_text(data: Mapping[str, Any]) -> str:
    """Return JSON with the hash of its content: indented, keys in the order given."""
    return json.dumps(hashed(data), indent=2, ensure_ascii=False) + "\n"


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return JSON Lines, a row a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def printable(path: Path | str) -> str:
    """A path with escapes for the bytes that are not UTF-8: equal to the path where there are none."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def loads_json(text: str | bytes) -> Any:
    """Parse JSON as `json.loads` does; also nesting that exceeds the interpreter's recursion limit is its error.

    Raises:
        json.JSONDecodeError: not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise json.JSONDecodeError("is nested too deeply", "", 0) from None


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Parse JSON of `json_text`, verify its hash and return it without it.

    Raises:
        ValueError: not JSON, not an object, or damaged.
    """
    try:
        data = loads_json(text)
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from error
    return unhashed(data)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON atomically, with the hash of its content: indented, keys in the order given."""
    write_text(path, json_text(data))


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON of `write_json`; an OSError or ValueError where it cannot be read or is damaged."""
    return parse_json(path.read_bytes())


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(data: Any) -> str:
    """Hex SHA-256 of plain data, through its canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(path.parent, error) from error


def full_folder(named: Path) -> Path:
    """Return the folder without space after an ENOSPC: that of temporary files ($TMPDIR), or the one named."""
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    try:
        spare, other = shutil.disk_usage(temporary).free, shutil.disk_usage(named).free
    except OSError:
        return named
    return temporary if spare < FEW_BYTES <= other else named


def _write_error(path: Path, error: OSError) -> AsrKdError:
    where = Path(error.filename) if isinstance(error.filename, str) else path
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and full_folder(where.parent) != where.parent:
        where = full_folder(where.parent)
    if not where.is_relative_to(path.parent):
        return AsrKdError(
            f"cannot be written ({error.strerror or error}) while {path} was made",
            where=where,
            expected="a folder for temporary files that can be written, with space left",
            remedy="Free some space, or set TMPDIR to another folder, then run the same command",
        )
    return AsrKdError(
        f"cannot be written ({error.strerror or error})",
        where=path,
        expected="a folder that can be written, with space left",
        remedy="Free some space or choose another work_dir, then run the same command: finished work is kept",
    )
