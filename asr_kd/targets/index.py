"""Index of a folder of targets of any kind."""

from dataclasses import dataclass
from typing import Generic

from asr_kd.config import S, parse_settings
from asr_kd.errors import RecipeError, TargetsError
from asr_kd.targets.storage import Storage


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


def read_index(place: Storage, form: IndexForm[S]) -> S:
    """Read the index of a folder.

    Raises:
        TargetsError: not such a folder, of another version, or its index is damaged.
    """
    where = f"{place}/{form.file}"
    try:
        data = place.read_json(form.file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise TargetsError(
            f"no {form.what} here",
            where=str(place),
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
