"""Units of extraction: damage is noticed and mended, names mean what people mean, keys hold what matters."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError
from asr_kd.recipe import extraction
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.pipeline import tasks_of
from asr_kd.recipe.settings import Recipe
from asr_kd.recipe.stage import StageTask
from asr_kd.targets.inspect import verify
from tests.helpers.tiny_run import command, hashes, one_line

TEXT = "students.student-kd.distill={level: sequence, kd_weight: 1.0}"


def context(extra: dict | None = None, **students: dict) -> RunContext:
    """Two teachers, one of each kind, and students of a name, a teacher and a level."""
    model, train = {"size": "tiny"}, {"epochs": 1}
    raw = {
        "name": "tasks",
        "work_dir": "exp/tasks",
        "corpus": {"kind": "an4"},
        "teachers": {"a": {"model": model, "train": train}, "b": {"source": "local:elsewhere"}},
        "students": {
            name: {"model": model, "teacher": given["teacher"], "distill": {"level": given.get("level", "frame")}}
            for name, given in students.items()
        },
    }
    for key, value in (extra or {}).items():
        raw[key] = {**raw.get(key, {}), **value}
    return RunContext(parse_settings(Recipe, raw, Path("tasks.yaml")))


def task(found: RunContext, name: str) -> StageTask:
    return next(task for task in tasks_of(found) if (task.stage, task.name) == ("extract", name))


@pytest.mark.parametrize("damage", ["flipped", "missing", "vocabulary"])
def test_the_same_extract_again_mends_what_is_damaged_as_every_message_says(copy, damage):
    store = copy.file("targets", "teacher")
    before = hashes(store)
    file = store / ("tokens.txt" if damage == "vocabulary" else "shard-00000.safetensors")
    if damage == "missing":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    assert not verify(store).ok
    outcome = copy.command("extract")
    assert outcome.code == 0, outcome.err
    assert outcome.did == ["extract teacher: again"]
    assert hashes(store) == before
    assert copy.command("run").did[2:5] == [
        "extract teacher: skipped",
        "student student-hard: skipped",
        "student student-kd: skipped",
    ]


def test_only_a_teacher_means_its_hypotheses_too_and_their_damage_is_mended(copy):
    pytest.importorskip("flashlight.lib.text")
    outcome = copy.command("extract", TEXT, "--only", "teacher")
    assert outcome.code == 0, outcome.err
    assert outcome.did == ["extract teacher-hypotheses: starts"]
    part = copy.file("hypotheses", "teacher", "shard-00000.jsonl")
    before = part.read_bytes()
    part.write_bytes(before[:-2])
    assert copy.command("extract", TEXT).did == ["extract teacher-hypotheses: again"]
    assert part.read_bytes() == before
    assert copy.command("extract", TEXT, "--only", "teacher-hypotheses").did == ["extract teacher-hypotheses: skipped"]


def test_two_tasks_of_one_name_are_refused():
    students = {"x": {"teacher": "a", "level": "sequence"}, "y": {"teacher": "a-hypotheses"}}
    with pytest.raises(
        RecipeError, match="'a-hypotheses' is the name of a teacher and of the task for the n-best of 'a'"
    ):
        context({"teachers": {"a-hypotheses": {"source": "local:other"}}}, **students)
    labels = {name: {"source": "whisper:openai/whisper-base", "language": "en"} for name in ("w", "w-evaluation")}
    with pytest.raises(
        RecipeError,
        match="'w-evaluation' is the name of pseudo-labels and of the task for Whisper's transcripts for 'w'",
    ):
        context({"hypotheses": labels}, x={"teacher": "a"})


def test_only_keys_of_teachers_behind_the_bridge_hold_its_settings():
    students = {"x": {"teacher": "a"}, "y": {"teacher": "b"}}
    before = {name: task(context(**students), name).settings for name in "ab"}
    changed = context({"bridge": {"strategy": "mean"}}, **students)
    assert task(changed, "a").settings == before["a"]
    assert task(changed, "b").settings == {**before["b"], "bridge": {"strategy": "mean"}}


@pytest.mark.parametrize("place", ["~/words", "file://{home}/words"])
def test_hypotheses_may_be_in_the_home_folder_or_behind_a_url(copy, tmp_path, monkeypatch, place):
    monkeypatch.setenv("HOME", str(tmp_path))
    manifest, said, place = copy.file("manifests", "train.jsonl"), tmp_path / "said.jsonl", place.format(home=tmp_path)
    said.write_bytes(manifest.read_bytes())  # transcripts, as another system's best
    imported = command("targets", "import", str(said), str(manifest), "--into", place)
    assert imported.code == 0, imported.err
    assert (tmp_path / "words" / "hypotheses.json").is_file()
    outcome = copy.command("distill", "--only", "student-kd", TEXT, f"students.student-kd.hypotheses={place}")
    assert outcome.code == 0, outcome.err
    assert "40 hypotheses" in outcome.out


def test_a_slurm_task_says_that_it_makes_a_share(copy, monkeypatch):
    for name, value in {"ID": 1, "COUNT": 2, "MIN": 0, "MAX": 1, "STEP": 1}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    outcome = copy.command("extract")
    assert "Slurm array extracts share 2/2; --share 1/1 extracts everything" in outcome.out
    assert "next:" not in outcome.out, "others may still be at work"
    assert "Slurm" not in copy.command("extract", "--share", "1/1").out
    assert "--force" in copy.command("extract", "--force").err


@pytest.mark.parametrize("name", ["techer", ""])
def test_a_name_that_no_unit_has_is_refused(copy, name):
    assert f"{name!r} is not in these stages; expected one of teacher" in one_line(
        copy.command("extract", "--only", name)
    )


def test_a_plan_says_which_stage_is_missing_before_it_opens_or_fetches_a_teacher(copy):
    copy.file("teachers").rename(copy.file("elsewhere"))
    assert "Run the teacher or student stage first" in one_line(copy.command("extract", "--plan"))
    source = f"teachers={{friend: {{source: 'local:{copy.file('nowhere')}'}}}}"
    line = one_line(copy.command("extract", "--plan", source, "students.student-kd.teacher=friend"))
    assert "friend/teacher.json: is missing. Run the teacher stage first" in line


def test_a_report_names_the_place_of_the_store(monkeypatch):
    lines = []
    monkeypatch.setattr(extraction, "fidelity_lines", lambda fidelity: [])
    info = SimpleNamespace(frames=3, bytes_per_frame=1.0, layer_bytes_per_frame=0.0)
    found = SimpleNamespace(info=info, fidelity=None, quarantine=["one"])
    extraction.report_extraction(SimpleNamespace(message=lines.append), "memory://store/targets/teacher", found)
    assert lines[-1] == "  1 left out, listed in memory://store/targets/teacher/quarantine.jsonl"
