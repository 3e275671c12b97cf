"""What a sweep tries: a grid of changes to one student, planned as one student a row."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from asr_kd.config import Settings, apply_overrides, load_yaml, parse_settings
from asr_kd.errors import RecipeError
from asr_kd.recipe.packaged_recipes import find_recipe
from asr_kd.recipe.settings import Recipe


def _plain(changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        try:
            json.dumps(value)
        except TypeError:
            raise ValueError(
                f"{key} has a value that YAML does not read as a number or text; put it in quotes"
            ) from None
    return changes


Changes = Annotated[dict[str, Any], AfterValidator(_plain)]
"""Dotted keys with their values."""


def _with_values(vary: dict[str, list[Any]]) -> dict[str, list[Any]]:
    empty = [key for key, values in vary.items() if not values]
    if empty:
        raise ValueError(f"{empty[0]} has no value to try")
    return vary


Values = Annotated[dict[str, list[Any]], AfterValidator(_with_values), AfterValidator(_plain)]
"""Dotted keys with the values to try."""


class Row(Settings):
    """A row of a sweep.

    Attributes:
        set: what it changes, as dotted keys below the student (`distill.kd_weight`).
        vary: dotted keys with the values to try, for this row alone; the product is run.
        skip: why it is not run; the table lists it with this reason.
    """

    set: Changes = Field(default={})
    vary: Values = Field(default={})
    skip: str | None = None


class Grid(Settings):
    """What a sweep tries.

    Attributes:
        student: the student of the recipe that rows change.
        common: what every row changes, as dotted keys below the student.
        vary: dotted keys with the values to try in every row.
        rows: name → what the row is; the first is what the others are compared with.
    """

    student: str = "student-kd"
    common: Changes = Field(default={})
    vary: Values = Field(default={})
    rows: dict[str, Row] = Field(default={"as in the recipe": Row()}, min_length=1)


@dataclass(frozen=True)
class PlannedRow:
    """One student of a sweep."""

    row: str
    """The row's name in the grid."""
    varied: Mapping[str, Any]
    """Which of the values tried it has."""
    seed: int | None
    changes: Mapping[str, Any]
    """Everything that differs from the recipe's student, as dotted keys below it."""
    skip: str | None

    @property
    def name(self) -> str:
        """Unique name, also of the row's folder."""
        plain = {k: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for k, v in self.varied.items()}
        varied = [f"{key.rpartition('.')[2]}-{value}" for key, value in plain.items()]
        seed = [] if self.seed is None else [f"seed-{self.seed}"]
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join([self.row, *varied, *seed])).strip("-._")[:90] or "row"


def load_grid(given: Sequence[str], student: str | None) -> Grid:
    """A grid from a YAML file, or from `key=[value, …]` below the student; `student` replaces the file's.

    Raises:
        RecipeError: not a grid.
    """
    if len(given) == 1 and "=" not in given[0]:
        grid = parse_settings(Grid, load_yaml(Path(given[0])), given[0])
    else:
        vary = {}
        for each in given:
            key, separator, text = each.partition("=")
            if not key or not separator:
                expected = "a YAML file, or key=[value, …] with a key below the student"
                raise RecipeError(f"--grid {each!r}", expected=expected)
            values = apply_overrides({}, [f"values={text}"])["values"]
            vary[key] = values if isinstance(values, list) else [values]
        grid = parse_settings(Grid, {"vary": vary}, "--grid")
    return grid if student is None else grid.model_copy(update={"student": student})


def plan(grid: Grid, seeds: Sequence[int]) -> list[PlannedRow]:
    """Every student of the sweep: row by row, value by value, seed by seed.

    Raises:
        RecipeError: two would have one name.
    """
    planned = []
    chosen_seeds: list[int | None] = list(seeds) or [None]
    for name, row in grid.rows.items():
        vary = {**grid.vary, **row.vary}
        for values in itertools.product(*vary.values()):
            varied = dict(zip(vary, values, strict=True))
            for seed in chosen_seeds:
                changes = {**grid.common, **row.set, **varied, **({} if seed is None else {"seed": seed})}
                planned.append(PlannedRow(name, varied, seed, changes, row.skip))
    names = [row.name for row in planned]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"two rows of the sweep would be called {twice!r}", remedy="Give the rows other names")
    return planned


def only_rows(rows: Sequence[PlannedRow], names: Sequence[str]) -> list[PlannedRow]:
    """Those of the named rows of the grid.

    Raises:
        RecipeError: a name that no row has.
    """
    known = {row.row for row in rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(
            f"no row of the sweep is called {unknown[0]!r}",
            expected=f"one of {', '.join(map(repr, sorted(known)))}",  # names may hold commas
        )
    return [row for row in rows if row.row in names]


def recipe_of(path: Path, overrides: Sequence[str], grid: Grid, rows: Sequence[PlannedRow]) -> Recipe:
    """The recipe with one student a row instead of its own.

    Raises:
        RecipeError: no such student, or a row that is not a valid student; nothing has run.
    """
    data = apply_overrides(load_yaml(find_recipe(path)), overrides)
    whole = parse_settings(Recipe, data, path)
    if grid.student not in whole.students:
        raise RecipeError(
            f"the sweep changes {grid.student!r}", where=path, expected=f"one of {', '.join(whole.students)}"
        )
    student = {key: value for key, value in data["students"][grid.student].items() if key != "baseline"}
    students = {
        row.name: apply_overrides(
            student, [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in row.changes.items()]
        )
        for row in rows
        if row.skip is None
    }
    if not students:
        raise RecipeError("every row of the sweep is skipped", expected="one to run")
    return parse_settings(Recipe, {**data, "students": students, "export": {}}, f"{path}, as the sweep changes it")
