"""What a run leaves behind, and what it said."""

import json
import re

import yaml

from asr_kd.corpora.corpus import read_prepared
from asr_kd.files import WRITTEN
from asr_kd.models.weights import load_model
from asr_kd.recipe.settings import load_recipe
from asr_kd.runtime.bundle import read_bundle
from asr_kd.targets.inspect import verify
from asr_kd.targets.store import Store
from tests.helpers.tiny_run import RECIPE

SYSTEMS = ("teacher", "student_hard", "student_kd")
ERRORS = {"wer", "substitutions", "deletions", "insertions", "words", "wer_low", "wer_high"}


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_stage_ran_in_order_and_nothing_went_to_stderr(first_run):
    _, outcome = first_run
    assert outcome.code == 0, outcome.err
    assert outcome.did == [
        "prepare: starts",
        "teacher: starts",
        "extract teacher: starts",
        "student student-hard: starts",
        "student student-kd: starts",
        "evaluate: starts",
        "export student-kd: starts",
    ]
    assert outcome.err == ""


def test_the_end_prints_the_table_where_the_files_are_and_what_to_do_next(first_run):
    run, outcome = first_run
    after = outcome.out[outcome.out.index("[export student-kd] done") :]
    for words in ("Synthetic speech", "WER %", "student-hard", "student-kd", "Gap recovered"):
        assert words in after
    assert f"report:  {run.file('report', 'index.html')}" in after
    assert after.splitlines()[-1] == f"next:    asr-kd transcribe {run.file('export', 'student-kd')} AUDIO..."


def test_everything_lies_where_it_should_and_nothing_half_written(finished):
    entries = {path.name for path in finished.work_dir.iterdir()}
    folders = {"manifests", "teachers", "targets", "students", "report", "transcripts", "export", "stages"}
    assert entries == folders | {"recipe.resolved.yaml", "run.json", WRITTEN}
    assert not [path for path in finished.work_dir.rglob("*") if path.name.endswith((".partial", ".replaced"))]
    for name in ("teachers/teacher", "students/student-hard", "students/student-kd"):
        files = {path.name for path in finished.file(name, "model").iterdir()}
        assert files == {"model.json", "model.safetensors", "tokens.txt", WRITTEN}
        assert list(finished.file(name, "tensorboard").glob("events.out.tfevents.*"))
        assert len(finished.file(name, "curve.jsonl").read_text().splitlines()) == 1


def test_results_have_the_agreed_keys(finished):
    results = read_json(finished.file("report", "results.json"))
    assert set(results["test_sets"]) == {"dev", "test"}
    for found in results["test_sets"].values():
        for system in SYSTEMS:
            assert set(found[system]) >= ERRORS
            counts = found[system]
            errors = counts["substitutions"] + counts["deletions"] + counts["insertions"]
            assert counts["wer"] == errors / counts["words"]
            assert counts["wer_low"] <= counts["wer"] <= counts["wer_high"]
        assert "gap_recovered" in found
        assert found["utterances"] == 6
    assert set(results["models"]) == set(SYSTEMS)
    for system in SYSTEMS:
        model = results["models"][system]
        assert model["parameters"] > 0
        assert model["size_bytes"] > 0
        assert model["real_time_factor"] > 0
        assert (model["epochs"], model["seed"]) == (1, 1)
    assert results["provenance"]["synthetic"] is True


def test_the_report_can_be_read_and_every_hypothesis_is_there(finished):
    text = finished.file("report", "results.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("student-hard", "student-kd", "teacher", "WER"))
    corpus = read_prepared(finished.work_dir)
    for name, utterances in corpus.sets.items():
        for system in SYSTEMS:
            lines = (
                finished.file("report", "hypotheses", name, f"{system.replace('_', '-')}.jsonl")
                .read_text()
                .splitlines()
            )
            rows = [json.loads(line) for line in lines]
            assert [row["id"] for row in rows] == [utterance.id for utterance in utterances]
            assert all({"reference", "hypothesis", "errors", "speaker"} <= row.keys() for row in rows)


def test_the_resolved_recipe_is_the_recipe_with_every_default(finished):
    path = finished.file("recipe.resolved.yaml")
    overrides = [f"work_dir={finished.work_dir}", f"corpus.root={finished.corpus_root}"]
    asked = load_recipe(RECIPE, overrides)
    assert load_recipe(path, []) == asked.model_copy(update={"extras": None})
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert plain["teachers"]["teacher"]["train"]["clip_norm"] == 5.0
    assert plain["targets"]["epsilon"] == 0.005


def test_what_ran_is_written_down(finished):
    run = read_json(finished.file("run.json"))
    assert {"python", "asr-kd", "torch", "speechbrain"} <= run["versions"].keys()
    assert (run["seed"], run["device"]) == (1, "cpu")
    assert run["git_commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", run["git_commit"])
    assert "run" in run["command"]
    assert f"work_dir={finished.work_dir}" in run["command"]


def test_the_store_belongs_to_the_teacher_and_says_what_it_kept(finished):
    teacher = load_model(finished.file("teachers", "teacher", "model"))
    store = Store.open(
        finished.file("targets", "teacher"),
        vocabulary=teacher.vocabulary,
        teacher_sha256=teacher.sha256,
        frame_shift_ms=40,
    )
    assert verify(finished.file("targets", "teacher")).ok
    trained_on = read_prepared(finished.work_dir).train
    assert sorted(store.ids()) == sorted(utterance.id for utterance in trained_on)
    fidelity = read_json(finished.file("targets", "teacher", "fidelity.json"))
    assert fidelity["argmax_agreement"] > 0.9
    assert {"kl", "tail_divergence", "teacher_entropy", "blank_share", "entries_per_frame"} <= fidelity.keys()
    assert finished.file("targets", "teacher", "quarantine.jsonl").read_text() == ""


def test_the_bundle_is_whole_and_traces_back(finished):
    folder = finished.file("export", "student-kd")
    whole = {WRITTEN, "model.onnx", "tokens.txt", "bundle.json", "README.md", "examples"}
    assert {path.name for path in folder.iterdir()} == whole
    info = read_bundle(folder).info
    student = load_model(finished.file("students", "student-kd", "model"))
    assert info.trace.model_sha256 == student.sha256
    assert info.trace.recipe == "tiny"
    results = read_json(finished.file("report", "results.json"))["test_sets"]
    assert info.trace.wer == {name: results[name]["student_kd"]["wer"] for name in ("dev", "test")}
    assert info.parity
    assert info.streaming.chunk_ms == 160


def test_student_with_and_without_distillation_differ_in_that_only(finished):
    hard, kd = (load_model(finished.file("students", name, "model")) for name in ("student-hard", "student-kd"))
    assert hard.model.settings == kd.model.settings
    assert hard.card["steps"] == kd.card["steps"]
    assert hard.sha256 != kd.sha256
