"""Models that a recipe names by their folders: cache keys hold the content of a folder and not its path.

A folder that is moved repeats no finished work, and other weights under the same path do. A name of the hub stands in
the key as it is. The content of a folder is recorded in the work_dir, so that finished stages are also found where the
folder is missing.
"""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asr_kd.errors import AsrKdError
from asr_kd.files import read_json, sha256_of, sha256_of_file, write_json
from asr_kd.models.settings import WhisperSettings
from asr_kd.recipe.context import RunContext
from asr_kd.teachers.settings import EncoderCtcSettings

RECORD = "models.json"
"""Below stages/ in the work_dir: source → SHA-256 of its folder's content."""
NO_FOLDERS = ("recipe", "torchaudio")
"""Kinds of sources that name no folder."""
NOT_CONTENT = frozenset({".md", ".lock"})
"""Suffixes of files that decide nothing: model cards."""


def source_in_key(context: RunContext, source: str) -> str:
    """A source as the settings of a cache key hold it: without the path of a folder, see `source_hashes`."""
    kind = source.partition(":")[0]
    return f"{kind}:FOLDER" if _folder(source) is not None or source in _recorded(context) else source


def source_hashes(context: RunContext, sources: Iterable[str | None]) -> list[str]:
    """The SHA-256 of the content of each source that is a folder; other sources have none."""
    hashes, recorded = [], _recorded(context)
    for source in filter(None, sources):
        folder = _folder(source)
        if folder is not None:
            found = folder_sha256(folder)
            if recorded.get(source) != found:
                recorded[source] = found
                write_json(context.folder("stages", RECORD), recorded)
            hashes.append(found)
        elif source in recorded:
            hashes.append(recorded[source])
    return hashes


def folder_sha256(folder: Path) -> str:
    """The SHA-256 of the names and contents of a folder's files, without model cards and sub-folders."""
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix not in NOT_CONTENT]
    found = [(path, path.stat()) for path in sorted(files) if not path.name.startswith(".")]
    return sha256_of({path.name: _sha256(path, stat.st_size, stat.st_mtime_ns) for path, stat in found})


def encoder_sources(model: object) -> list[str]:
    """The public encoder that a model contains or begins from."""
    if isinstance(model, EncoderCtcSettings):
        return [model.encoder.source]
    return [model.source] if isinstance(model, WhisperSettings) else []


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    return sha256_of_file(path)


def _folder(source: str) -> Path | None:
    kind, _, place = source.partition(":")
    if kind in NO_FOLDERS or not place:
        return None
    named = (place, place.rpartition("@")[0]) if kind == "speechbrain" else (place,)
    return next((path for name in named if name and (path := Path(name).expanduser()).is_dir()), None)


def _recorded(context: RunContext) -> dict[str, Any]:
    path = context.folder("stages", RECORD)
    try:
        return read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise AsrKdError(
            f"cannot be read ({error})", where=path, expected="what asr-kd wrote", remedy="Delete it and run again"
        ) from error
