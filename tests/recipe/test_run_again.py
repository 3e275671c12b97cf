"""What is done is skipped, what depends on a change runs again, and what was there before is kept."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from asr_kd.files import read_json, sha256_of, write_json
from asr_kd.models.weights import load_model
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.extraction import extraction_task
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.stage import VERSION
from tests.helpers.tiny_run import RECIPE, Run, hashes, one_line

TASKS = (
    "prepare",
    "teacher",
    "extract teacher",
    "student student-hard",
    "student student-kd",
    "evaluate",
    "export student-kd",
)


def skipped(*but: str) -> list[str]:
    """All tasks, skipped but for those that started."""
    return [f"{task}: {'starts' if task in but else 'skipped'}" for task in TASKS]


def test_a_second_run_skips_everything_says_so_and_changes_no_byte(finished):
    before = hashes(finished.work_dir)
    outcome = finished.command("run")
    assert outcome.code == 0
    assert outcome.did == skipped()
    assert "Gap recovered" in outcome.out
    assert hashes(finished.work_dir) == before


def test_a_changed_setting_runs_what_depends_on_it_and_comes_back_without_work(copy):
    before = hashes(copy.work_dir)
    outcome = copy.command("run", "students.student-kd.distill.kd_weight=0.3")
    assert outcome.code == 0, outcome.err
    assert outcome.did == skipped("student student-kd", "evaluate", "export student-kd")
    assert "distill.kd_weight was 0.5, is 0.3; the earlier result is kept in" in outcome.out
    kept = {path.name.rsplit("-", 1)[0] for path in copy.file("previous").iterdir() if path.is_dir()}
    assert kept == {"student-student-kd", "evaluate", "export-student-kd"}
    changed = hashes(copy.work_dir)
    for folder in ("manifests", "teachers", "targets", "students/student-hard"):
        assert {name: changed[name] for name in changed if name.startswith(folder)} == {
            name: before[name] for name in before if name.startswith(folder)
        }
    assert (
        changed["students/student-kd/model/model.safetensors"] != before["students/student-kd/model/model.safetensors"]
    )
    assert json.loads(copy.file("run.json").read_text())["command"].endswith("kd_weight=0.3")

    outcome = copy.command("run")
    assert outcome.code == 0, outcome.err
    assert outcome.did == skipped()
    assert outcome.out.count("is restored from") == 3
    again = hashes(copy.work_dir)
    results = ("stages/", "students/", "report/", "export/", "teachers/", "targets/", "manifests/")
    assert {name: again[name] for name in again if name.startswith(results)} == {
        name: before[name] for name in before if name.startswith(results)
    }


def test_soft_targets_of_a_release_without_a_setting_are_used_as_they_are(copy):
    places = [f"work_dir={copy.work_dir}", f"corpus.root={copy.corpus_root}"]
    task = extraction_task(RunContext(load_recipe(RECIPE, places)), "teacher")
    status = read_json(task.status_path)
    earlier = {name: value for name, value in status["settings"].items() if name != "layers"}
    assert len(earlier) == len(status["settings"]) - 1
    key = sha256_of([VERSION, "extract", earlier, task.inputs()])
    write_json(task.status_path, {**status, "settings": earlier, "key": key})
    assert copy.command("run").did == skipped()


def test_a_setting_of_the_report_leaves_models_and_bundles_alone(copy):
    before = hashes(copy.file("report", "hypotheses"))
    outcome = copy.command("run", "evaluate.bootstrap_samples=300")
    assert outcome.did == skipped("evaluate")
    assert "test: uses the transcripts of an earlier evaluation for teacher, student-hard, student-kd" in outcome.out
    assert hashes(copy.file("report", "hypotheses")) == before


def test_an_evaluation_that_is_stopped_keeps_what_was_transcribed(copy):
    before = hashes(copy.file("report", "hypotheses"))
    shutil.rmtree(copy.file("transcripts"))
    small = "evaluate.batch_seconds=1"  # each utterance is a batch of its own
    for done in (1, 2):
        outcome = copy.command("run", small, "--from", "evaluate", "--to", "evaluate", "--max-minutes", "0")
        assert outcome.code == 75
        assert f"evaluation stopped (--max-minutes 0 are over) after {done} of" in outcome.err
        assert "what was transcribed is kept" in outcome.err
        assert [len(read_json(path)["texts"]) for path in copy.file("transcripts").iterdir()] == [done] * 3
    outcome = copy.command("evaluate", small)
    assert outcome.code == 0, outcome.err
    assert "uses the transcripts of an earlier evaluation" in outcome.out
    assert hashes(copy.file("report", "hypotheses")) == before


def test_conditions_and_contexts_go_on_where_they_were_stopped(copy):
    wanted = ["evaluate.robustness=[gain:-20]", "evaluate.matrix=[[4, 16]]", "evaluate.batch_seconds=1"]
    assert copy.command("evaluate", *wanted).code == 0
    before = read_json(copy.file("report", "results.json"))
    for path in copy.file("transcripts").iterdir():
        if read_json(path)["change"]:
            path.unlink()
    stops = []
    again = ["run", *wanted, "evaluate.bootstrap_samples=300", "--from", "evaluate", "--to", "evaluate"]
    while (outcome := copy.command(*again, "--max-minutes", "0")).code == 75:
        stops += re.findall(r"after (\d+) of \d+ utterances of test, ([^.]*)", outcome.err)
    assert outcome.code == 0, outcome.err
    assert stops[0] == ("1", "context 4-16-0")
    counts = Counter(stops)  # two students in the context, then the condition
    assert {(change, count) for (_, change), count in counts.items()} == {("context 4-16-0", 2), ("gain:-20", 1)}
    after = read_json(copy.file("report", "results.json"))
    assert (after["matrix"], after["robustness"]) == (before["matrix"], before["robustness"])


def test_transcripts_are_made_again_with_force_other_weights_another_decoding_or_damage(copy):
    earlier, before = "the transcripts of an earlier evaluation", hashes(copy.file("report", "hypotheses"))
    assert earlier not in copy.command("evaluate", "--force").out
    beam = copy.command("evaluate", "evaluate.decoding={kind: beam, beam_size: 2}")
    assert beam.code == 0, beam.err
    assert earlier not in beam.out
    for path in copy.file("transcripts").iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    assert earlier not in copy.command("evaluate", "evaluate.bootstrap_samples=300").out
    assert hashes(copy.file("report", "hypotheses")) == before
    changed = copy.command("run", "students.student-kd.distill.kd_weight=0.3", "--to", "evaluate")
    assert changed.code == 0, changed.err
    assert f"{earlier} for teacher, student-hard\n" in changed.out


def test_force_repeats_the_named_stages_and_keeps_what_was_there(copy):
    before = hashes(copy.file("students", "student-hard", "model"))
    for generation in (1, 2):
        outcome = copy.command("distill", "--only", "student-hard", "--force")
        assert outcome.code == 0, outcome.err
        assert outcome.did == ["student student-hard: starts"]
        kept = [path for path in copy.file("previous").iterdir() if path.is_dir()]
        assert len(kept) == generation
        assert all(hashes(path / "model") == before for path in kept)
    assert hashes(copy.file("students", "student-hard", "model")) == before
    assert copy.command("run").did == skipped()


def test_a_result_that_is_gone_is_made_again_and_what_it_led_to_still_fits(copy):
    weights = copy.file("teachers", "teacher", "model", "model.safetensors")
    before = weights.read_bytes()
    weights.unlink()
    outcome = copy.command("run")
    assert outcome.code == 0, outcome.err
    assert outcome.did == ["teacher: again" if task == "teacher" else f"{task}: skipped" for task in TASKS]
    assert weights.read_bytes() == before


def test_what_to_do_next_carries_the_overrides(copy):
    outcome = copy.command("train", "targets.epsilon=0.02")
    places = f"work_dir={copy.work_dir} corpus.root={copy.corpus_root}"
    assert outcome.out.splitlines()[-1] == f"next:    asr-kd run {RECIPE} {places} targets.epsilon=0.02 --from extract"


def test_another_seed_trains_everything_anew(copy):
    outcome = copy.command("run", "seed=2", "--max-minutes", "0")
    assert outcome.code == 75
    assert "[teacher] seed was 1, is 2; the earlier result is kept" in outcome.out


def test_other_audio_under_the_same_sentences_trains_everything_anew(tmp_path, copy):
    # Manifests name the same ids, texts and durations then.
    outcome = copy.command("run", f"corpus.root={tmp_path / 'corpus'}", "corpus.noise_db=[-30, -20]", "--to", "prepare")
    assert outcome.did == ["prepare: starts"]
    outcome = copy.command(
        "run", f"corpus.root={tmp_path / 'corpus'}", "corpus.noise_db=[-30, -20]", "--max-minutes", "0"
    )
    assert outcome.did == ["prepare: skipped", "teacher: starts"]


def test_a_corpus_that_is_gone_is_made_again(tmp_path, copy):
    own = f"corpus.root={tmp_path / 'corpus'}"
    assert copy.command("prepare", own).did == ["prepare: starts"]
    assert copy.command("prepare", own).did == ["prepare: skipped"]
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    assert copy.command("prepare", own).did == ["prepare: again"]
    assert hashes(tmp_path / "corpus") == hashes(tmp_path / "elsewhere")


def test_targets_of_another_teacher_are_refused_and_nothing_is_lost(copy):
    before = hashes(copy.file("students"))
    assert copy.command("train", "seed=2").code == 0
    outcome = copy.command("distill", "seed=2", "--only", "student-kd")
    line = one_line(outcome)
    teacher = load_model(copy.file("teachers", "teacher", "model"))
    assert "targets of teacher 'teacher' with weights" in line
    assert f"expected weights {teacher.sha256[:12]}" in line
    assert "asr-kd extract" in line
    assert copy.command("run").did == skipped()
    assert hashes(copy.file("students")) == before


def test_a_damaged_marker_is_one_message_and_force_mends_it(copy):
    copy.file("stages", "evaluate.json").write_text("{half")
    line = one_line(copy.command("evaluate"))
    assert "stages/evaluate.json: cannot be read" in line
    assert "--force" in line
    assert copy.command("evaluate", "--force").did == ["evaluate: starts"]


@pytest.mark.parametrize("name", ["tokens.txt", "train.jsonl"])
def test_a_manifest_that_is_gone_says_which_stage_to_run(copy, name):
    copy.file("manifests", name).unlink()
    line = one_line(copy.command("train"))
    assert "prepare" in line


def test_a_stage_without_what_comes_before_says_so(tmp_path, copy):
    for folder in ("teachers", "targets", "students"):
        copy.file(folder).rename(tmp_path / folder)
    assert "Run the teacher or student stage first" in one_line(copy.command("extract"))
    assert "Run the teacher or student stage first" in one_line(copy.command("run", "--from", "evaluate"))
    (tmp_path / "teachers").rename(copy.file("teachers"))
    assert "Run the extract stage first" in one_line(copy.command("distill", "--only", "student-kd"))


def test_a_truncated_model_is_trained_again_and_the_report_stays(copy):
    weights = copy.file("students", "student-hard", "model", "model.safetensors")
    before, report = weights.read_bytes(), hashes(copy.file("report"))
    weights.write_bytes(before[: len(before) // 2])
    outcome = copy.command("run")
    assert outcome.code == 0, outcome.err
    assert outcome.did == [f"{task}: {'again' if task == 'student student-hard' else 'skipped'}" for task in TASKS]
    assert "has changed since it was written; it is kept as" in outcome.out
    assert weights.read_bytes() == before
    assert hashes(copy.file("report")) == report


def test_prepare_leaves_foreign_manifests_alone(copy):
    foreign = copy.file("manifests", "mine.jsonl")
    foreign.write_text("mine")
    assert copy.command("prepare", "--force").code == 0
    assert foreign.read_text() == "mine"


def test_audio_that_was_swapped_under_its_ids_trains_nobody_until_it_is_extracted_again(copy, tmp_path):
    # A corpus of its own: other processes of the session read the shared one meanwhile.
    run = Run(copy.work_dir, Path(shutil.copytree(copy.corpus_root, tmp_path / "corpus")))
    assert run.command("run", "--to", "extract").code == 0
    one, other, *_ = sorted((run.corpus_root / "synthetic" / "train").rglob("*.flac"))
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    assert run.command("prepare").did == ["prepare: skipped"]
    message = one_line(run.command("distill", "--only", "student-kd", "students.student-kd.train.epochs=2"))
    assert "soft targets of other audio than the corpus holds now" in message
    assert "Run the extract stage first" in message
    assert "extract teacher: again" in run.command("extract").did
