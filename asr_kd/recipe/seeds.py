"""Systems of a recipe that differ only in their seed: several training runs of one system, a row of the report."""

from typing import Any

from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.seed_rows import SeedRows
from asr_kd.files import sha256_of
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.system_settings import StudentSettings
from asr_kd.recipe.systems import teacher_of_student

BESIDES = ("seed", "baseline")
"""What may differ within a row: a run is compared with the baseline of its own seed."""
_DEFAULT = {"student-kd": "student-hard"}


def seeds_of(recipe: Recipe) -> tuple[int, ...]:
    """The seeds that the recipe's models are trained with."""
    trained = [*recipe.teachers.values(), *recipe.students.values()]
    own = [getattr(system, "seed", recipe.seed) for system in trained if hasattr(system, "train")]
    return tuple(sorted({recipe.seed if seed is None else seed for seed in own})) or (recipe.seed,)


def seed_rows_of(recipe: Recipe) -> SeedRows:
    """The recipe's systems in rows, each named as the first of its runs, and which rows are compared."""
    rows: dict[str, list[str]] = {}
    named: dict[str, str] = {}
    for name, system in [*recipe.teachers.items(), *recipe.students.items()]:
        row = named.setdefault(_but_for_the_seed(name, system), name)
        rows.setdefault(row, []).append(name)
    row_of = {name: row for row, names in rows.items() for name in names}
    pairs = []
    for row in rows:
        student = recipe.students.get(row)
        baseline = student and (student.baseline or _DEFAULT.get(row))
        if student is not None and baseline in row_of:
            pairs.append(Comparison(row, row_of[baseline], row_of.get(teacher_of_student(recipe, student) or "")))
    return SeedRows(rows, tuple(pairs))


def _but_for_the_seed(name: str, system: Any) -> str:
    """A hash that is equal for runs of one system; the name for an existing teacher."""
    if not hasattr(system, "train"):
        return name
    plain = system.model_dump(mode="json")
    kind = "student" if isinstance(system, StudentSettings) else "teacher"
    return sha256_of([kind, {key: value for key, value in plain.items() if key not in BESIDES}])
