"""Students of a recipe that differ in their seed alone are one row, compared with the row of their baselines."""

from asr_kd.config import load_yaml
from asr_kd.evaluation.comparison import Comparison
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.systems import seed_rows_of, seeds_of
from tests.helpers.tiny_run import RECIPE


def recipe(**more):
    """The tiny recipe with further students, each a copy of one that is there with some keys changed."""
    data = load_yaml(RECIPE)
    for name, (copied, changes) in more.items():
        data["students"][name.replace("_", "-")] = {**data["students"][copied], **changes}
    return Recipe.model_validate(data)


def test_without_further_seeds_every_system_is_a_row():
    tiny = recipe()
    rows_found = seed_rows_of(tiny)
    assert rows_found.rows == {name: [name] for name in [*tiny.teachers, *tiny.students]}
    assert seeds_of(tiny) == (tiny.seed,)


def test_students_that_differ_in_their_seed_alone_are_one_row():
    rows_found = seed_rows_of(
        recipe(
            hard_2=("student-hard", {"seed": 2}),
            kd_2=("student-kd", {"seed": 2, "baseline": "hard-2"}),
            other=("student-kd", {"seed": 3, "train": {"epochs": 7}}),
        )
    )
    assert rows_found.rows["student-hard"] == ["student-hard", "hard-2"]
    assert rows_found.rows["student-kd"] == ["student-kd", "kd-2"]
    assert rows_found.rows["other"] == ["other"]
    assert list(rows_found.pairs) == [Comparison("student-kd", "student-hard", "teacher")]


def test_the_report_states_every_seed():
    more = recipe(hard_2=("student-hard", {"seed": 22}))
    assert seeds_of(more) == tuple(sorted({more.seed, 22}))
