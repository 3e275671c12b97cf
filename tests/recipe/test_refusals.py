"""What the command line refuses: one line, exit code 1, nothing run and nothing written."""

import errno
import os
import resource

import pytest
import torch
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from asr_kd.files import read_json, write_json
from tests.helpers.processes import Started, command_line
from tests.helpers.tiny_run import RECIPE, Outcome, command, hashes, one_line


@pytest.fixture
def work_dir(tmp_path):
    """Where a refused command would have written."""
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["studens.student-kd.train.epochs=3"], "unknown key 'studens': did you mean 'students'?"),
        (["corpus.train_uterances=3"], "unknown key 'corpus.train_uterances': did you mean 'train_utterances'?"),
        (
            ["teachers.big={encoder: {source: 'hf:a/b', unfreeze_layer: 1}, train: {epochs: 1}}"],
            "unknown key 'teachers.big.encoder.unfreeze_layer': did you mean 'unfreeze_layers'?",
        ),
        (["teachers.teacher.train.epochs=0"], "teachers.teacher.train: epochs: 0 leaves random weights"),
        (["students.student-kd.distill.kd_weight=1.5"], "allowed: at least 0 and at most 1 (found 1.5)"),
        (["students.student-hard.model.streaming.train_contexts=[[0, 4]]"], "greater than or equal to 1 (found 0)"),
        (["teachers.teacher.train.augmentation.speeds=[0]"], "speeds must be numbers from 0.5 to 2"),
        (["students.student-kd.model={size: huge}"], "'10m' or '30m' (found 'huge'). Correct the key"),
        (["students.a/b.model.size=tiny"], "the name 'a/b' must be letters"),
        (["export.models=[nobody]"], "export.models names 'nobody'; known: teacher, student-hard, student-kd"),
        (["export.models=[teacher]"], "export.models names 'teacher', a full-context model"),
        (["evaluate.others={student-hard: a.trn}"], "evaluate.others.student-hard has the name of a system of this"),
        (
            ["evaluate.others={w: a.trn}", "hypotheses={w: {source: 'whisper:base', evaluate: true}}"],
            "evaluate.others.w has the name of a system whose outputs hypotheses have; rename it",
        ),
        (["students.student-kd.stages=[{teacher: a}]"], "students.student-kd.stages.0.teacher is 'a'; known: teacher"),
        (["name=!!python/object/apply:os.getcwd []"], "tags such as !apply: or !!python are refused"),
        (["teachers.teacher.train"], "expected key.path=value"),
        (["device=cuda:63"], "device: there is no cuda:63"),
        (["--from", "techer"], "no stage is called 'techer'; expected one of prepare, teacher, extract"),
        (["--to", "nothing"], "no stage is called 'nothing'"),
        (
            ["--from", "student", "--to", "teacher"],
            "--from student comes after --to teacher; expected the order prepare",
        ),
    ],
)
def test_a_wrong_recipe_override_or_stage_is_refused_before_anything_is_written(work_dir, words, message):
    line = one_line(command("run", str(RECIPE), f"work_dir={work_dir}", *words))
    assert message in line
    assert not work_dir.exists()


def test_a_name_that_is_not_in_the_stage_is_refused(work_dir):
    line = one_line(command("distill", str(RECIPE), f"work_dir={work_dir}", "--only", "student-kdd"))
    assert "'student-kdd' is not in these stages; expected one of student-hard, student-kd" in line
    assert not work_dir.exists()


@pytest.mark.parametrize("verb", ["run", "prepare", "check", "train", "extract", "distill", "evaluate", "export"])
def test_a_recipe_that_is_not_there_or_not_one(tmp_path, verb):
    assert "does not exist" in one_line(command(verb, str(tmp_path / "no.yaml")))
    (tmp_path / "folder.yaml").mkdir()
    assert "cannot be read" in one_line(command(verb, str(tmp_path / "folder.yaml")))
    (tmp_path / "list.yaml").write_text("- a\n")
    assert "not a mapping" in one_line(command(verb, str(tmp_path / "list.yaml")))


LABELS = ["students.student-kd.distill={level: sequence, kd_weight: 1.0}", "students.student-kd.hypotheses=labells"]


def test_a_misspelt_name_of_hypotheses_is_refused_before_anything_runs(work_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [f"work_dir={work_dir}", *LABELS]
    line = one_line(command("run", str(RECIPE), *overrides))
    assert line.startswith("asr-kd: labells: holds no hypotheses")
    assert (
        "expected students.student-kd.hypotheses to name one, a URL, or pseudo-labels of the recipe (it has none)"
        in line
    )
    line = one_line(command("extract", str(RECIPE), *overrides, "hypotheses.labels.source=whisper:base"))
    assert "students.student-kd.hypotheses is 'labells', no folder; known under hypotheses: labels" in line
    assert not work_dir.exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, finished):
    (tmp_path / "file").write_text("")
    line = one_line(command("run", str(RECIPE), f"work_dir={tmp_path / 'file' / 'run'}"))
    assert "file/run" in line
    assert "cannot be written" in line


def with_small_files(*words: str) -> None:
    """The command line, with a system that writes no file beyond 12 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))
    command_line(*words)


def test_a_disk_that_is_full_is_one_line_and_the_same_command_goes_on(copy):
    before = hashes(copy.work_dir)
    line = one_line(Outcome(*Started(with_small_files, *copy.words("train", "--force")).end()))
    assert "File too large" in line
    assert "cannot be written" in line
    outcome = copy.command("train")
    assert outcome.code == 0, outcome.err
    after = hashes(copy.work_dir)
    assert after["teachers/teacher/model/model.safetensors"] == before["teachers/teacher/model/model.safetensors"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_trouble_with_the_disk_outside_our_own_writers_is_one_line_too(copy, monkeypatch, code):
    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code), "events")

    monkeypatch.setattr(EventFileWriter, "add_event", fail)
    line = one_line(copy.command("train", "--force"))
    assert f"events: {os.strerror(code)}" in line
    assert "run the same command again" in line


# -- models ----------------------------------------------------------------------------------------------


class Exploit:
    """Runs code when unpickled."""

    def __reduce__(self):
        return os.mkdir, ("pwned",)


def test_a_pickle_as_checkpoint_is_refused_and_does_not_run(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio = next(copy.corpus_root.rglob("*.flac"))
    torch.save({"model": Exploit()}, "model.pt")
    assert "pickled checkpoints" in one_line(command("transcribe", "model.pt", str(audio)))

    model = copy.file("students", "student-hard", "model")
    torch.save({"model": Exploit()}, model / "model.safetensors")
    assert "SHA-256" in one_line(command("transcribe", str(model), str(audio)))
    description = model / "model.json"
    digest = hashes(model)["model.safetensors"]
    write_json(description, {**read_json(description), "weights_sha256": digest})
    line = one_line(command("transcribe", str(model), str(audio)))
    assert "is not a safetensors file" in line
    assert "pickled checkpoints" in line

    (model / "model.safetensors").unlink()
    for checkpoint in copy.file("students", "student-hard", "checkpoints").iterdir():
        torch.save({"model": Exploit()}, checkpoint / "model.safetensors")
        digests = {name: digest for name, digest in hashes(checkpoint).items() if name != "checkpoint.json"}
        write_json(checkpoint / "checkpoint.json", {"version": 1, "sha256": digests})
    outcome = copy.command("distill", "--only", "student-hard")
    assert outcome.out.count("checkpoint skipped: ") == outcome.out.count("pickled checkpoints") >= 1
    assert "checkpoints is intact" in one_line(outcome)
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_model_and_a_damaged_store_are_named(copy):
    weights = copy.file("teachers", "teacher", "model", "model.safetensors")
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    line = one_line(copy.command("run", "--from", "evaluate"))
    assert "teachers/teacher/model/model.safetensors" in line
    assert "SHA-256" in line

    weights.write_bytes(good)
    shard = next(copy.file("targets", "teacher").glob("shard-*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    line = one_line(copy.command("distill", "--only", "student-kd", "--force"))
    assert f"damaged shards: {shard.name}" in line
    assert "asr-kd extract" in line
