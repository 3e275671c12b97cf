"""Recipes whose teachers exist already: through extraction, training and the report, by the command line."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from asr_kd.models.weights import load_model, save_model
from asr_kd.targets.store import Store
from asr_kd.targets.store_index import StoreInfo
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_run import Run, one_line

EXPORTED = "export.models=[taught]"
QUICK = ("evaluate.bootstrap_samples=200", "evaluate.rtf_utterances=1")


def student_of(name: str, distill: str, more: str = "") -> str:
    """An override that leaves one distilled student and its baseline."""
    shape = (
        "{width: 16, layers: 1, heads: 2, feed_forward: 16, kernel: 3, subsampling_channels: 2, "
        "streaming: {chunk_frames: 4, left_context_frames: 8}}"
    )
    train = "{epochs: 1, batch_seconds: 40, precision: fp32, average_best: 1, warmup_epochs: 0.5}"
    return (
        f"students={{base: {{model: {shape}, train: {train}}}, "
        f"{name}: {{model: {shape}, train: {train}, baseline: base, distill: {distill}{more}}}}}"
    )


@pytest.fixture
def model(copy) -> Path:
    """The recipe's own teacher, moved out of the run."""
    return Path(shutil.copytree(copy.file("teachers", "teacher", "model"), copy.work_dir.parent / "elsewhere"))


def results(run: Run) -> dict:
    return json.loads(run.file("report", "results.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_teacher_from_elsewhere_teaches_and_is_scored_like_one_trained_here(copy, model):
    before = results(copy)
    source = f"teachers={{friend: {{source: 'local:{model}'}}}}"
    words = ["run", source, student_of("taught", "{kd_weight: 0.5}"), EXPORTED, *QUICK, "--to", "evaluate"]
    outcome = copy.command(*words)
    assert outcome.code == 0, outcome.err
    assert "teacher checked on 4 utterances" in outcome.out
    assert copy.file("teachers", "friend", "teacher.json").is_file()
    assert StoreInfo.read(copy.file("targets", "friend")).teacher.sha256 == load_model(model).sha256
    after = results(copy)
    for name, row in before["test_sets"].items():
        assert after["test_sets"][name]["teacher"]["wer"] == row["teacher"]["wer"]
        pair = after["test_sets"][name]["comparisons"][0]
        assert (pair["distilled"], pair["baseline"], pair["teacher"]) == ("taught", "base", "teacher")
    again = copy.command(*words)
    assert set(again.did) == {f"{line.split(':')[0]}: skipped" for line in outcome.did}


def test_a_teacher_in_a_folder_shows_its_layers(copy, model):
    source = f"teachers={{friend: {{source: 'local:{model}'}}}}"
    matches = "{kd_weight: 0.5, objectives: {representation: {pairs: [[1, 1]]}}}"
    outcome = copy.command("run", source, student_of("taught", matches), EXPORTED, *QUICK, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert StoreInfo.read(copy.file("targets", "friend")).layers == {1: 16}
    too_high = matches.replace("[[1, 1]]", "[[1, 7]]")
    line = one_line(copy.command("extract", source, student_of("taught", too_high), EXPORTED))
    assert "7" in line
    assert "expected 1 to" in line


def test_letters_in_another_case_and_order_are_bridged(copy, model):
    loaded = load_model(model)
    order = list(reversed(range(len(loaded.vocabulary))))
    symbols = tuple(s if s == "<blk>" else s.lower() for s in (loaded.vocabulary.symbols[index] for index in order))
    with torch.no_grad():
        loaded.model.output.weight.copy_(loaded.model.output.weight[order].clone())
        loaded.model.output.bias.copy_(loaded.model.output.bias[order].clone())
    save_model(copy.work_dir.parent / "lower", loaded.model, Vocabulary(symbols), {"name": "lower"})
    source = f"teachers={{friend: {{source: 'local:{copy.work_dir.parent / 'lower'}'}}}}"
    outcome = copy.command("run", source, student_of("taught", "{kd_weight: 0.5}"), EXPORTED, "--to", "student")
    assert outcome.code == 0, outcome.err
    ours, bridged = Store.open(copy.file("targets", "teacher")), Store.open(copy.file("targets", "friend"))
    assert bridged.info.vocabulary == ours.info.vocabulary
    assert bridged.info.teacher.sha256 != ours.info.teacher.sha256
    name = next(iter(ours.ids()))
    for one, other in zip(ours.read(name, "speed-1.0"), bridged.read(name, "speed-1.0"), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one.float(), other.float(), atol=1e-4)


def test_an_ensemble_of_the_recipes_own_teachers(copy):
    shape = "{width: 16, layers: 1, heads: 2, feed_forward: 16, kernel: 3, subsampling_channels: 2}"
    train = "{epochs: 1, batch_seconds: 40, precision: fp32, average_best: 1}"
    teachers = (
        f"teachers={{a: {{model: {shape}, train: {train}}}, b: {{model: {shape}, train: {{epochs: 1, "
        "batch_seconds: 20, precision: fp32, average_best: 1}}, "
        "both: {source: [{source: 'recipe:a'}, {source: 'recipe:b', weight: 2}]}}"
    )
    outcome = copy.command(
        "run", teachers, student_of("taught", "{kd_weight: 0.5}", ", teacher: both"), EXPORTED, "--to", "student"
    )
    assert outcome.code == 0, outcome.err
    assert [line for line in outcome.did if line.startswith("extract")] == ["extract both: starts"]
    wrong = teachers.replace("recipe:b", "recipe:c")
    line = one_line(copy.command("run", wrong, student_of("taught", "{kd_weight: 0.5}", ", teacher: both"), EXPORTED))
    assert "recipe:c" in line
    assert "a, b" in line


def test_a_subword_student_learns_from_the_teachers_hypotheses(copy, model):
    pytest.importorskip("flashlight.lib.text")
    source = f"teachers={{friend: {{source: 'local:{model}'}}}}"
    words = ("vocabulary={kind: bpe, size: 40}", source, student_of("taught", "{level: sequence, kd_weight: 1.0}"))
    outcome = copy.command("run", *words, EXPORTED, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert "extract friend-hypotheses: starts" in outcome.did
    assert load_model(copy.file("students", "taught", "model")).vocabulary.bpe is not None
    refused = one_line(
        copy.command("run", *words[:2], student_of("taught", "{kd_weight: 0.5}"), EXPORTED, "--to", "student")
    )
    assert "level: sequence" in refused


def test_a_teacher_that_says_something_else_stops_the_run_before_anything_is_stored(copy):
    line = one_line(copy.command("extract", "--force", "sanity={utterances: 4, max_wer: 0.01}"))
    assert "sanity.max_wer" in line
    assert not list(copy.file("targets").glob("teacher/shard-*"))


def test_a_plan_prints_shards_bytes_and_hours_and_stores_nothing(copy):
    shutil.rmtree(copy.file("targets"))
    outcome = copy.command("extract", "--plan")
    assert outcome.code == 0, outcome.err
    assert "shards" in outcome.out
    assert "bytes" in outcome.out
    assert not copy.file("targets").exists()


def test_shares_on_a_url_make_the_store_together(copy):
    url = f"store_url=file://{copy.work_dir.parent}/bucket"
    words = (url, "targets.shard_seconds=30")
    first = copy.command("extract", *words, "--share", "1/2")
    assert first.code == 0, first.err
    assert "share 1/2" in first.out
    second = copy.command("extract", *words, "--share", "2/2")
    assert second.code == 0, second.err
    done = copy.command("extract", *words)
    assert done.code == 0, done.err
    assert json.loads(copy.file("targets", "teacher", "place.json").read_text())["place"].endswith("targets/teacher")
    trained = copy.command("distill", *words, "--only", "student-kd")
    assert trained.code == 0, trained.err
    assert "extract" not in copy.command("extract", *words).err
