"""Sweeps: rows are planned, run once, go on where they stopped, and say what did not run."""

import json
from pathlib import Path

import pytest

from asr_kd.errors import RecipeError
from asr_kd.evaluation.results import git_commit
from asr_kd.files import json_text
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.sweep import is_current, newest, read_rows, row_key
from asr_kd.recipe.sweep_grid import Grid, PlannedRow, load_grid, only_rows, plan, recipe_of
from asr_kd.recipe.sweep_table import lead, lines_of, plot, table
from tests.helpers.tiny_run import RECIPE, command

GRID = """
common: {train.epochs: 1}
rows:
  labels alone: {set: {distill: null}}
  plain KL:
    set: {distill.objectives: {frame_kl: {selection: all}}}
    vary: {distill.kd_weight: [0.3, 0.7]}
  never: {skip: no time}
"""


@pytest.fixture
def grid_file(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def test_rows_are_the_product_of_values_and_seeds():
    grid = Grid(
        common={"train.epochs": 3},
        vary={"train.learning_rate": [1e-3, 2e-3]},
        rows={"a": {"set": {"distill": None}}, "b": {"vary": {"distill.kd_weight": [0.5]}}},
    )
    rows = plan(grid, [1, 2])
    assert len(rows) == 2 * 2 * 2
    assert len({row.name for row in rows}) == 8
    assert rows[0].name == "a_learning_rate-0.001_seed-1"
    assert rows[0].changes == {"train.epochs": 3, "distill": None, "train.learning_rate": 1e-3, "seed": 1}
    assert rows[-1].changes["distill.kd_weight"] == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["distill.kd_weight"], "does not exist|cannot be read"),
        (["distill.kd_weight=[]"], "has no value to try"),
        (["distill.kd_wait=[0.5]"], "kd_weight"),
        (["distill.kd_weight=[2]"], "at most 1"),
        (["distill.kd_weight=[2024-01-01]"], "put it in quotes"),
    ],
)
def test_a_grid_that_cannot_run_is_refused_before_anything_has(given, message):
    def read():
        grid = load_grid(given, None)
        recipe_of(RECIPE, [], grid, plan(grid, []))

    with pytest.raises(RecipeError, match=message):
        read()


def test_an_unknown_student_is_named():
    grid = load_grid(["distill.kd_weight=[0.5]"], "student-x")
    with pytest.raises(RecipeError, match="student-kd"):
        recipe_of(RECIPE, [], grid, plan(grid, []))


def test_a_recipe_that_comes_along_is_swept_by_its_name():
    grid = load_grid(["distill.kd_weight=[0.3]"], None)
    assert list(recipe_of(Path("Synthetic/synthetic"), [], grid, plan(grid, [])).students)


def test_rows_run_once_and_a_new_one_alone(copy, grid_file):
    first = copy.command("sweep", "--grid", str(grid_file), "--seeds", "1")
    assert first.code == 0, first.err
    folder = copy.file("sweeps", "grid")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert {row["commit"] for row in rows} == {git_commit()}
    assert [(row["row"], row["varied"]) for row in rows] == [
        ("labels alone", {}),
        ("plain KL", {"distill.kd_weight": 0.3}),
        ("plain KL", {"distill.kd_weight": 0.7}),
    ]
    assert all("dev" in row["sets"] and "test" not in row["sets"] for row in rows)
    printed = (folder / "table.md").read_text()
    assert "| never | 0 | no time |" in printed
    assert "plain KL, kd_weight 0.7" in printed
    assert "<svg" in (folder / "dev.svg").read_text()

    recorded = load_recipe(copy.file("recipe.resolved.yaml"), [])
    assert "student-kd" in recorded.students, "the run's own models stay those of its folder: asr-kd tune FOLDER"

    again = copy.command("sweep", "--grid", str(grid_file), "--seeds", "1")
    assert again.code == 0, again.err
    assert not any("starts" in did or "again" in did for did in again.did)
    assert (folder / "rows.jsonl").read_text().count("\n") == 3

    grid_file.write_text(GRID.replace("[0.3, 0.7]", "[0.3, 0.7, 0.9]"))
    more = copy.command("sweep", "--grid", str(grid_file), "--seeds", "1")
    assert [did for did in more.did if "starts" in did] == ["student plain-KL_kd_weight-0.9_seed-1: starts"]
    assert (folder / "rows.jsonl").read_text().count("\n") == 4


def test_the_teacher_is_transcribed_once(copy, grid_file):
    heard = copy.file("sweeps", "grid", "teacher.json")

    def teachers_errors(values):
        grid_file.write_text(GRID.replace("[0.3, 0.7]", values))
        assert copy.command("sweep", "--grid", str(grid_file), "--only", "plain KL").code == 0
        row = read_rows(copy.file("sweeps", "grid", "rows.jsonl"))[-1]["sets"]["dev"]
        return sum(row["teacher_errors"].values())

    first = teachers_errors("[0.3]")
    written = json.loads(heard.read_text())
    wordy = {name: dict.fromkeys(texts, "no " * 100) for name, texts in written["texts"].items()}
    heard.write_text(json_text({**written, "texts": wordy}))
    assert teachers_errors("[0.4]") == 100 * len(wordy["dev"])  # what stood there was taken

    heard.write_text(json_text({**written, "key": "of another teacher", "texts": wordy}))
    assert teachers_errors("[0.5]") == first
    heard.write_text("damaged")
    assert teachers_errors("[0.6]") == first
    assert json.loads(heard.read_text()) == written


def _result(row, seed, errors, words=100, **other):
    sets = {"wer": errors / words, "wer_low_speakers": None, "wer_high_speakers": None, "substitutions": errors}
    sets |= {"deletions": 0, "insertions": 0, "words": words, "cer": 0.0, "teacher_wer": 0.05}
    sets["teacher_errors"] = {"a": 2, "b": 3}
    sets["by_speaker"] = {"a": {"errors": errors // 2, "words": 50}, "b": {"errors": errors - errors // 2, "words": 50}}
    result = {"row": row, "varied": {}, "seed": seed, "key": f"{row}{seed}{errors}", "sets": {"dev": sets}}
    return {**result, "passes": 4100, **other}


def test_seeds_are_one_line_and_the_newest_result_counts():
    rows = plan(Grid(rows={"base": {}, "kd": {}, "other": {}}), [1, 2])
    results = [_result("base", 1, 20), _result("base", 2, 30), _result("kd", 1, 90), _result("kd", 1, 10)]
    lines = lines_of(rows, results)
    assert [line.name for line in lines] == ["base", "kd", "other"]
    printed = table(lines, "dev")
    assert "| base | 2 | 25.00 (20.00–30.00) |" in printed
    assert "| kd | 1 | 10.00 – | -15.00" in printed
    assert "| 75 [" in printed  # (25 − 10) / (25 − 5)
    assert [line.endswith("| – |") for line in printed.splitlines()[2:]] == [False, False, True]
    assert lead(lines, "dev").startswith("Teacher 5.00 %, base 25.00 %: a lead of 20.00 points [")
    assert "| other | 0 | not run |" in printed
    assert "not run" in plot(lines, "dev")


def test_budgets_stand_beside_what_they_bought(tmp_path):
    rows = plan(Grid(rows={"base": {}, "two passes": {}}), [])
    results = [_result("base", 1, 20, passes=4100), _result("two passes", 1, 10, passes=8200)]
    printed = table(lines_of(rows, results), "dev").splitlines()
    assert printed[0].endswith("| 1,000 passes |")
    assert [line.rsplit("|", 2)[1].strip() for line in printed[2:]] == ["4.1", "8.2"]


def test_a_row_without_values_is_refused_rather_than_left_out():
    with pytest.raises(ValueError, match="has no value to try"):
        Grid(rows={"a": {"vary": {"distill.kd_weight": []}}})


def test_the_result_that_is_shown_is_the_one_that_must_hold():
    # The settings went one way and back again: an older line has the key that is wanted, but the table shows the last.
    results = [_result("kd", 1, 20, teacher_sha256="t"), _result("kd", 1, 30, teacher_sha256="t")]
    known = newest(results)[row_key("kd", {}, 1)]
    assert is_current(known, "kd130", "t")
    assert not is_current(known, "kd120", "t")
    assert not is_current(known, "kd130", "another teacher")  # delays and the gap are to the former
    assert not is_current(None, "kd130", "t")


def test_rows_of_the_same_weights_are_results_of_their_own():
    assert row_key("kd", {"distill.delay_frames": 0}, 1) != row_key("kd", {"distill.delay_frames": 1}, 1)


def test_lines_say_the_seed_they_were_trained_with_and_the_teacher(copy, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("common: {train.epochs: 1}\nrows:\n  hard: {set: {distill: null, seed: 0}}\n")
    assert copy.command("sweep", "--grid", str(grid)).code == 0
    (line,) = read_rows(copy.file("sweeps", "grid", "rows.jsonl"))
    assert line["seed"] == 0
    assert len(line["teacher_sha256"]) == 64
    assert line["passes"] == line["steps"] > 0


def test_processes_of_torchrun_would_train_the_same_rows(monkeypatch):
    told = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    refused = command("sweep", str(RECIPE), "--grid", "distill.kd_weight=[0.5]")
    assert refused.code == 1
    assert "a sweep under torchrun" in refused.err


def test_rows_whose_names_hold_commas_are_told_apart_when_one_is_unknown():
    rows = [PlannedRow(name, {}, 1, {}, None) for name in ("delayed KL, learned", "sequence")]
    with pytest.raises(RecipeError, match="'sequenze'; expected one of 'delayed KL, learned', 'sequence'"):
        only_rows(rows, ["sequenze"])


@pytest.mark.parametrize("text", ["common: {seed: 2024-01-01}", "rows: {a: {set: {seed: !!set {1}}}}"])
def test_values_that_json_does_not_have_are_refused(tmp_path, text):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(RecipeError, match="seed has a value that YAML does not read as a number or text"):
        load_grid([str(tmp_path / "grid.yaml")], None)
