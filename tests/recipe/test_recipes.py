"""The recipes that come with the project: all load, and those on real speech prepare and start."""

import json
from pathlib import Path

import pytest

from asr_kd.recipe.settings import load_recipe
from tests.recipe.tiny_run import RECIPE, ROOT, command

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def test_there_are_recipes():
    assert len(RECIPES) >= 3
    assert {path.parent.name for path in RECIPES} >= {"AN4", "LibriSpeech", "Synthetic"}


@pytest.mark.parametrize("path", [*RECIPES, RECIPE], ids=lambda path: path.name)
def test_it_loads_and_compares_a_student_with_and_without_its_teacher(path):
    recipe = load_recipe(path, [])
    assert recipe.work_dir.parent == Path("exp")
    hard, kd = recipe.students["student-hard"], recipe.students["student-kd"]
    assert hard.distill is None
    assert kd.distill is not None
    assert kd.distill.needs_targets
    assert (hard.model, hard.train) == (kd.model, kd.train)
    assert kd.model.streaming is not None
    assert recipe.teachers[recipe.teacher_of(kd)].model.streaming is None


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
    monkeypatch.setenv("ASR_KD_CORPORA", str(corpora_root))
    recipe = str(ROOT / "recipes" / "LibriSpeech" / "mini.yaml")
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
