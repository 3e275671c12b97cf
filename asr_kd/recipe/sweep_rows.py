"""Results of a sweep: `rows.jsonl`, a line each, only ever added to. Runs nothing."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asr_kd.errors import RecipeError
from asr_kd.files import hashed, parse_json

ROWS = "rows.jsonl"

Result = Mapping[str, Any]
"""A line."""


def append_row(path: Path, line: Result) -> None:
    """One more line; several sweeps may write one file.

    Raises:
        RecipeError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(hashed(line), ensure_ascii=False) + "\n")
    except OSError as error:
        raise RecipeError(f"cannot be written ({error.strerror or error})", where=path) from error


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The results so far; none where nothing has run.

    Raises:
        RecipeError: a line that is no result.
    """
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = parse_json(line)
            row["key"], row["row"], row["varied"], row["seed"], row["sets"]
        except (ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                "is not a result of a sweep", where=f"{path}:{number}", remedy="Remove that line; its row runs again"
            ) from error
        found.append(row)
    return found


def newest(results: Iterable[Result]) -> dict[str, Result]:
    """What counts of several results of one row and seed, by `whose`: the last."""
    return {whose(result["row"], result["varied"], result["seed"]): result for result in results}


def whose(row: str, varied: Mapping[str, Any], seed: int) -> str:
    """Which line of the table, and which seed of it, a result is of."""
    return f"{row}\n{sorted((key, repr(value)) for key, value in varied.items())}\n{seed}"


def still_holds(result: Result | None, key: str, teacher_sha256: str | None) -> bool:
    """Whether a row's newest result is what scoring it again would give.

    Args:
        result: None where there is none.
        key: of the student's weights and the way to score.
        teacher_sha256: of the teacher beside it, against which delays are; lines of earlier releases do not say.
    """
    return (
        result is not None and result["key"] == key and result.get("teacher_sha256", teacher_sha256) == teacher_sha256
    )
