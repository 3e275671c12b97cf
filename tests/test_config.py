"""Recipes as plain data: what is refused before anything runs, and in which words."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from asr_kd.config import Settings, apply_overrides, load_yaml, parse_settings, user_path
from asr_kd.errors import RecipeError
from asr_kd.recipe.settings import Recipe


class Folder(Settings):
    kind: Literal["folder"] = "folder"
    fold: int = 0


class Made(Settings):
    kind: Literal["made"] = "made"
    train_size: int = Field(10, ge=1, le=100)


class Training(Settings):
    epochs: int = Field(10, ge=1)
    learning_rate: float = Field(1e-3, gt=0, le=1)
    speeds: tuple[float, ...] = (1.0,)


class System(Settings):
    train: Training
    note: str | None = None


class Whole(Settings):
    corpus: Annotated[Folder | Made, Field(discriminator="kind")]
    systems: dict[str, System]
    threads: int | None = Field(None, ge=1, le=256)


GOOD = {"corpus": {"kind": "made"}, "systems": {"first-student": {"train": {}}}}


def refused(data: object, *overrides: str) -> str:
    """What is said about data that must not pass."""
    with pytest.raises(RecipeError) as caught:
        parse_settings(Whole, apply_overrides(data, overrides), "recipe.yaml")
    message = str(caught.value)
    assert message.startswith("recipe.yaml: ")
    return message


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# -- YAML ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "!apply:os.system [touch pwned]",
        "!new:os.system [touch pwned]",
        "!!python/object/apply:os.system [touch pwned]",
        "!!python/name:os.system",
        "!!python/object:object {}",
        "!include other.yaml",
    ],
)
def test_tags_are_refused_in_files_and_overrides(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: .*tags such as"):
        load_yaml(write(tmp_path, f"name: x\nwork_dir: {value}\n"))
    with pytest.raises(RecipeError, match="tags such as"):
        apply_overrides({}, [f"name={value}"])
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"recipe\.yaml:3: the key 'a' stands twice"),
        ("a: {b: 1, b: 1}\n", "the key 'b' stands twice"),
        ("- a\n- b\n", "holds list, not a mapping"),
        ("just words\n", "holds str, not a mapping"),
        ("", "holds NoneType, not a mapping"),
        ("a: [1, 2\n", "not YAML"),
        ("a: b: c\n", "not YAML"),
        ("a: 2024-13-41\n", "not YAML"),
        ("a: &a [*a]\n", "recursive"),
        ("{[1, 2]: 3}\n", "unhashable key"),
        ("a: *nothing\n", "undefined alias"),
        ("a: " + 5000 * "[", "nested too deeply"),
        ("a: \x00\n", "not YAML"),
    ],
)
def test_what_is_not_a_plain_mapping_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as caught:
        load_yaml(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert "recipe.yaml" in str(caught.value)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        load_yaml(tmp_path / "nothing.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("name: \xe9\n".encode("latin-1"))
    with pytest.raises(RecipeError, match="UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_merged_anchors_are_plain_data_and_may_be_refined(tmp_path):
    data = load_yaml(write(tmp_path, "base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\n"))
    assert data["more"] == {"a": 1, "b": 3}
    assert data["base"] == {"a": 1, "b": 2}


# -- keys and values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sytems=1", "unknown key 'sytems': did you mean 'systems'?"),
        ("corpus.train_sise=3", "unknown key 'corpus.train_sise': did you mean 'train_size'?"),
        ("systems.first-student.trian={}", "unknown key 'systems.first-student.trian': did you mean 'train'?"),
        (
            "systems.first-student.train.learningrate=1",
            "unknown key 'systems.first-student.train.learningrate': did you mean 'learning_rate'?",
        ),
        ("zzz=1", "unknown key 'zzz': known: corpus, systems, threads"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_known_one(override, message):
    assert message in refused(GOOD, override)


def test_only_the_chosen_member_of_a_union_is_suggested_from():
    # `fold` is a key of the other kind of corpus: a suggestion of it would be wrong here.
    assert "unknown key 'corpus.fold': known: kind, train_size" in refused(GOOD, "corpus.fold=1")


def test_a_misspelt_kind_and_a_missing_one():
    assert "corpus.kind: found 'mode', did you mean 'made'?" in refused(GOOD, "corpus.kind=mode")
    assert "corpus.kind: missing, known: folder, made" in refused({**GOOD, "corpus": {"train_size": 3}})


def test_a_key_without_its_path_gets_the_places_that_have_it():
    assert "unknown key 'epochs': did you mean systems.NAME.train.epochs?" in refused(GOOD, "epochs=1")
    with pytest.raises(RecipeError) as found:
        parse_settings(Recipe, {"name": "a", "epochs": 1}, "recipe.yaml")
    assert "students.NAME.train.epochs" in str(found.value)
    assert "teachers.NAME.train.epochs" in str(found.value)
    (message,) = [part for part in str(found.value).split("; ") if "'epochs'" in part]
    assert message.count(".epochs") <= 3


@pytest.mark.parametrize("value", ["[", "[a, b", "{a: 1", "'text", "a: b: c", "*"])
def test_a_value_that_is_not_closed_is_said_to_be(value):
    with pytest.raises(RecipeError, match=r"is not complete YAML; expected .* closed. Close it, as in"):
        apply_overrides({}, [f"corpus.train={value}"])


def test_a_misspelt_name_in_an_override_is_recognised():
    message = refused(GOOD, "systems.first-studnet.note=x")
    assert "systems.first-studnet.train: missing (is 'first-studnet' meant to be 'first-student'?)" in message


def test_a_key_misspelt_in_a_merged_anchor_is_found_where_it_is_used(tmp_path):
    text = """
corpus: {kind: made}
systems:
  one: {train: &train {epoch: 3}}
  two: {train: {<<: *train, learning_rate: 0.1}}
"""
    message = refused(load_yaml(write(tmp_path, text)))
    assert "unknown key 'systems.one.train.epoch': did you mean 'epochs'?" in message
    assert "unknown key 'systems.two.train.epoch': did you mean 'epochs'?" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("corpus.train_size=0", "corpus.train_size: allowed: at least 1 and at most 100 (found 0)"),
        ("corpus.train_size=101", "corpus.train_size: allowed: at least 1 and at most 100 (found 101)"),
        (
            "systems.first-student.train.learning_rate=0",
            "systems.first-student.train.learning_rate: allowed: above 0 and at most 1 (found 0)",
        ),
        ("systems.first-student.train.learning_rate=.nan", "learning_rate: allowed: above 0 and at most 1 (found nan)"),
        ("systems.first-student.train.learning_rate=.inf", "learning_rate: allowed: above 0 and at most 1 (found inf)"),
        ("threads=0", "threads: allowed: at least 1 and at most 256 (found 0)"),
    ],
)
def test_out_of_range_gets_the_allowed_range(override, message):
    assert message in refused(GOOD, override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("threads=many", "threads: expected a whole number"),
        ("threads=1.5", "threads: expected a whole number"),
        ("systems.first-student.note=12", "systems.first-student.note: expected text (found 12)"),
        ("systems.first-student.train.speeds=[1.0, fast]", "systems.first-student.train.speeds.1: expected a number"),
        ("systems=[]", "systems: expected a mapping"),
        ("systems.first-student=null", "systems.first-student: expected a mapping"),
    ],
)
def test_values_of_another_type_are_refused(override, message):
    assert message in refused(GOOD, override)


def test_every_problem_is_listed_and_what_was_found_is_not_spelt_out_at_length():
    message = refused(GOOD, "threads=0", "corpus.train_size=-1", f"systems.first-student.train.epochs={'x' * 10_000}")
    assert all(key in message for key in ("threads", "corpus.train_size", "systems.first-student.train.epochs"))
    assert len(message) < 600


def test_rules_of_the_whole_do_not_print_the_whole():
    data = load_yaml(Path(__file__).parents[1] / "recipes" / "Synthetic" / "synthetic.yaml")
    with pytest.raises(RecipeError) as caught:
        parse_settings(Recipe, apply_overrides(data, ["students.student-kd.teacher=nobody"]), "recipe.yaml")
    assert "recipe.yaml: students.student-kd.teacher is 'nobody'; known: teacher. " in str(caught.value)
    assert len(str(caught.value)) < 200


# -- overrides -------------------------------------------------------------------------------------------


def test_overrides_have_the_types_of_the_file(tmp_path):
    written = load_yaml(write(tmp_path, "a: 3\nb: 1e-3\nc: [0.9, 1.0]\nd: text\ne: null\nf: true\ng: {h: 1}\ni: '5'\n"))
    given = apply_overrides({}, ["a=3", "b=1e-3", "c=[0.9, 1.0]", "d=text", "e=null", "f=true", "g={h: 1}", "i='5'"])
    assert given == written


def test_exponents_without_a_point_are_floats(tmp_path):
    # YAML 1.1 reads 1e-3 as text; a learning rate in that form is no mistake.
    text = "corpus: {kind: made}\nsystems: {one: {train: {learning_rate: 1e-3, speeds: [9e-1, 1]}}}\n"
    training = parse_settings(Whole, load_yaml(write(tmp_path, text)), "recipe.yaml").systems["one"].train
    assert training.learning_rate == 0.001
    assert training.speeds == (0.9, 1.0)
    changed = apply_overrides(GOOD, ["systems.first-student.train.learning_rate=2e-3"])
    assert parse_settings(Whole, changed, "recipe.yaml").systems["first-student"].train.learning_rate == 0.002


def test_an_override_changes_one_place_of_a_shared_anchor_and_not_its_input(tmp_path):
    text = "corpus: {kind: made}\nsystems: {one: &one {train: {epochs: 3}}, two: *one}\n"
    data = load_yaml(write(tmp_path, text))
    changed = apply_overrides(data, ["systems.two.train.epochs=7"])
    assert changed["systems"]["one"]["train"]["epochs"] == 3
    assert changed["systems"]["two"]["train"]["epochs"] == 7
    assert data["systems"]["two"]["train"]["epochs"] == 3


def test_the_last_override_wins_and_missing_mappings_are_made():
    changed = apply_overrides({"a": None}, ["a.b.c=1", "a.b.c=2", "a.b.d=3", "e="])
    assert changed == {"a": {"b": {"c": 2, "d": 3}}, "e": None}


@pytest.mark.parametrize("override", ["epochs", "=3", "a..b=3", ".a=3", "a.=3", ""])
def test_overrides_of_another_form_are_refused(override):
    with pytest.raises(RecipeError, match=r"key\.path=value"):
        apply_overrides({}, [override])


@pytest.mark.parametrize("data", [{"a": 3}, {"a": [1]}, {"a": "b"}])
def test_overrides_through_what_is_no_mapping_are_refused(data):
    with pytest.raises(RecipeError, match=r"override 'a\.b=1' goes through 'a', which is not a mapping"):
        apply_overrides(data, ["a.b=1"])


@pytest.mark.parametrize("text", ["[1, 2", "{a: 1, a: 2}", "a: b: c"])
def test_override_values_that_are_not_yaml_are_refused(text):
    with pytest.raises(RecipeError, match="override"):
        apply_overrides({}, [f"a={text}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("students.student-kd.model.size=[tiny]", "students.student-kd.model.size: expected 'tiny', 'small'"),
        ("students.student-kd.model.size={}", "or '30m' (found a mapping)"),
        ("students={}", "students: expected at least 1, found 0. Correct"),
        ("students={1: {}}", "students.1: expected text as the name, in quotes"),
        ("evaluate.robustness=5", "evaluate.robustness: expected true or false (found 5); evaluate.robustness: "),
        ("evaluate.matrix={a: 1}", "evaluate.matrix: expected a list (found a mapping)"),
        ("teachers.teacher.train=null", "teachers.teacher.train: expected a mapping, `key: value` (found None)"),
        ("work_dir=5", "work_dir: expected a path (found 5)"),
    ],
)
def test_types_are_named_as_yaml_names_them(override, message):
    data = load_yaml(Path(__file__).parents[1] / "recipes" / "Synthetic" / "synthetic.yaml")
    with pytest.raises(RecipeError) as caught:
        parse_settings(Recipe, apply_overrides(data, [override]), "recipe.yaml")
    assert message in str(caught.value)
    assert "[" not in str(caught.value).replace(override, "")


def test_a_home_folder_of_nobody_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a") == tmp_path / "a"
    assert user_path("~no-user-of-this-name/a") == Path("~no-user-of-this-name/a")
