"""The recipes that come with the project: all load, and those on real speech prepare and start."""

import json
import re
import string
from pathlib import Path

import pytest
import torchaudio

from asr_kd.recipe.settings import Recipe, load_recipe
from asr_kd.recipe.sweep_grid import load_grid, plan, recipe_of
from asr_kd.recipe.system_settings import ExistingTeacher
from asr_kd.teachers.settings import parse_source
from tests.helpers.tiny_run import RECIPE, ROOT, command

GRIDS = sorted((ROOT / "recipes").rglob("grids/*.yaml"))
RECIPES = sorted(set((ROOT / "recipes").rglob("*.yaml")) - set(GRIDS))


LIBRISPEECH = ROOT / "recipes" / "LibriSpeech"
PUBLIC = [LIBRISPEECH / f"{name}.yaml" for name in ("960h", "train-clean-100", "label-free", "mini-public")]


def test_there_are_recipes():
    assert {path.parent.name for path in RECIPES} >= {"AN4", "LibriSpeech", "Synthetic"}
    assert set(PUBLIC) < set(RECIPES)


def pairs(recipe: Recipe) -> list[tuple[str, str]]:
    """Students that learn from labels alone, each with one that learned from a teacher."""
    named = [("student-hard", "student-kd")] if "student-kd" in recipe.students else []
    return named + [(s.baseline, name) for name, s in recipe.students.items() if s.baseline is not None]


@pytest.mark.parametrize("path", [*RECIPES, RECIPE], ids=lambda path: path.name)
def test_it_loads_and_compares_like_with_like(path):
    recipe = load_recipe(path, [])
    assert recipe.work_dir.parent == Path("exp")
    assert pairs(recipe) or path.stem in ("label-free", "demo")
    for hard, kd in ((recipe.students[hard], recipe.students[kd]) for hard, kd in pairs(recipe)):
        assert hard.distill is None
        assert kd.distill is not None
        assert kd.needs_teacher or kd.hypotheses in recipe.hypotheses
        starts = [str(student.train.init_from) for student in (hard, kd)]
        on_from_a_pair = starts[0].replace("/student-hard/", "/student-kd/") == starts[1]
        if kd.train.init_from != hard.train.init_from and not hard.stages and not on_from_a_pair:
            # The control of all stages together, from the same start.
            (staged,) = (
                student
                for name, student in recipe.students.items()
                if student.stages and f"/{name}-stage-1/" in str(kd.train.init_from)
            )
            assert hard.train.epochs == kd.train.epochs + sum(stage.train.epochs for stage in staged.stages)
            assert hard.train.augmentation == kd.train.augmentation
            assert hard.model.model_copy(update={"dropout": kd.model.dropout}) == kd.model
            continue
        other = {"init_from": kd.train.init_from} if hard.stages or on_from_a_pair else {}  # from a stage of the other
        if kd.stages:  # the control has as many epochs, all of them with labels
            other |= {"epochs": hard.train.epochs - sum(stage.train.epochs for stage in kd.stages)}
        if hard.transcript_share < 1:  # more epochs of less speech
            other |= {"epochs": kd.train.epochs, "validate_every_epochs": kd.train.validate_every_epochs}
        assert (hard.model, hard.train.model_copy(update=other)) == (kd.model, kd.train)
    for name, student in recipe.students.items():
        assert student.model.streaming is not None or name.endswith("full")
        if student.hypotheses in recipe.hypotheses or not recipe.teachers:
            continue
        teacher = recipe.teachers[recipe.teacher_of(student)]
        assert isinstance(teacher, ExistingTeacher) or teacher.model.streaming is None


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_every_row_of_a_grid_is_a_student_of_the_recipe_that_its_header_names(path):
    (command_line,) = re.findall(r"asr-kd sweep (\S+) --grid (\S+)", path.read_text(encoding="utf-8"))
    assert ROOT / command_line[1] == path
    grid = load_grid([str(path)], None)
    rows = plan(grid, [])
    assert len(recipe_of(ROOT / command_line[0], [], grid, rows).students) == len([r for r in rows if r.skip is None])


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_a_public_teacher_has_students_of_5_10_and_30_million_parameters(path):
    recipe = load_recipe(path, [])
    assert {student.model.size for student in recipe.students.values()} == {"5m", "10m", "30m"}
    assert set(recipe.vocabulary.alphabet) == {"'", *string.ascii_uppercase}
    (teacher,) = recipe.teachers.values()
    assert isinstance(teacher, ExistingTeacher)
    kind, bundle, _ = parse_source(teacher.source)
    assert kind == "torchaudio"
    documented = getattr(torchaudio.pipelines, bundle).__doc__
    assert "MIT License" in documented
    assert set(getattr(torchaudio.pipelines, bundle).get_labels()) == {"-", "|", "'", *string.ascii_uppercase}


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_its_header_says_command_teacher_and_a_cost_that_is_called_an_estimate(path):
    header = path.read_text(encoding="utf-8").split("\nname: ")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for words in (f"asr-kd run recipes/LibriSpeech/{path.name}", "torchrun --nproc_per_node", "licence", "NOT RUN"):
        assert words in header
    assert load_recipe(path, []).teachers.popitem()[1].source.removeprefix("torchaudio:") in header
    assert "ESTIMATE" in header
    assert "benchmarks/recipe_cost.py" in header


def test_label_free_students_need_no_transcripts():
    recipe = load_recipe(LIBRISPEECH / "label-free.yaml", [])
    assert not any(student.distill.needs_references for student in recipe.students.values())
    assert "train-clean-100" not in recipe.corpus.train  # what its teacher was fine-tuned on
    for path in PUBLIC:
        kd = next(name for name, student in load_recipe(path, []).students.items() if student.distill is not None)
        changed = load_recipe(path, [f"students.{kd}.distill.kd_weight=1"])
        assert not changed.students[kd].distill.needs_references


def prepared(path: Path) -> dict:
    return json.loads((path / "manifests" / "corpus.json").read_text(encoding="utf-8"))


@pytest.mark.corpora
def test_an4_prepares(corpora_root, tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_KD_CORPORA", str(corpora_root))
    outcome = command("prepare", str(ROOT / "recipes" / "AN4" / "an4.yaml"), f"work_dir={tmp_path}")
    assert outcome.code == 0, outcome.err
    corpus = prepared(tmp_path)
    assert corpus["dev_sets"] == ["dev"]
    assert corpus["sets"]["dev"]["speakers"] == 8
    assert abs(corpus["sets"]["devtest"]["utterances"] - 237) < 10
    assert corpus["excluded"] == []
    total = corpus["train"]["utterances"] + sum(corpus["sets"][name]["utterances"] for name in ("dev", "devtest"))
    assert total == 948
    assert ("test" in corpus["sets"]) != ("test" in corpus["absent"])
    assert command("prepare", str(ROOT / "recipes" / "AN4" / "an4.yaml"), f"work_dir={tmp_path}").did == [
        "prepare: skipped"
    ]


@pytest.mark.corpora
@pytest.mark.slow
def test_librispeech_prepares_and_starts(corpora_root, tmp_path, monkeypatch):
    """On a few chapters of each split."""
    train = sorted(corpora_root.glob("LibriSpeech/train-clean-100/*/*"))
    for chapter in [*train[:8], *corpora_root.glob("LibriSpeech/[dt]e*/*/*")]:
        link = tmp_path / "corpora" / chapter.relative_to(corpora_root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(chapter)
    monkeypatch.setenv("ASR_KD_CORPORA", str(tmp_path / "corpora"))
    recipe = str(ROOT / "recipes" / "LibriSpeech" / "mini.yaml")
    tmp_path = tmp_path / "run"
    run = ("run", recipe, f"work_dir={tmp_path}", "threads=1", "--max-minutes", "0")
    outcome = command(*run)
    assert outcome.code == 75
    assert "after prepare" in outcome.err
    corpus = prepared(tmp_path)
    assert corpus["train"]["utterances"] > 0
    assert set(corpus["sets"]) | set(corpus["absent"]) == {"dev-clean", "test-clean", "test-other"}
    outcome = command(*run, "teachers.teacher.train.batch_seconds=20")
    assert outcome.code == 75, outcome.err
    assert "training of teacher stopped (--max-minutes 0 are over) at epoch 1, step 1" in outcome.err
    assert list((tmp_path / "teachers" / "teacher" / "checkpoints").glob("step-*"))
