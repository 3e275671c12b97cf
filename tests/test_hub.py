"""push and hf: against a local stand-in for the hub, in other processes: the library reads its address once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asr_kd.errors import HubError
from asr_kd.hub import is_repository, local_folder, plan_push
from asr_kd.targets import TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from tests.helpers.hub_stand_in import hub_stand_in
from tests.helpers.noise import write_corpus
from tests.helpers.tiny_models import save_tiny_model
from tests.helpers.tiny_run import ROOT, Outcome

pytest.importorskip("huggingface_hub")

OPEN = """
import json, sys, torch
import asr_kd
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
from asr_kd.training.warm_start import warm_start_sha256
from asr_kd.training.settings import TrainSettings
for place in sys.argv[1:]:
    loaded = asr_kd.load_model(place)
    text = asr_kd.open_recognizer(place).transcribe([torch.zeros(16000)])
    teacher = open_teacher_source(TeacherSource(source=place))
    key = warm_start_sha256(TrainSettings(init_from=place))
    print(json.dumps([loaded.sha256, str(text), key, getattr(teacher, "model_sha256", "")]))
"""
STORE = "import sys, asr_kd; print(sorted(asr_kd.SoftTargetStore.open(sys.argv[1]).ids()))"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with hub_stand_in() as (hub, address):
        for name, value in {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "secret",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }.items():
            monkeypatch.setenv(name, value)
        yield hub


def python(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


COMMANDS = """
import json, sys
from tests.helpers.tiny_run import command
print(json.dumps([vars(command(*words)) for words in json.loads(sys.argv[1])]))
"""


def commands(*many: list[str]) -> list[Outcome]:
    """Several commands, one after another in one process."""
    done = python(COMMANDS, json.dumps(many))
    assert done.returncode == 0, done.stderr
    return [Outcome(**found) for found in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.slow
def test_a_pushed_model_opens_by_name_and_revision(hub, tmp_path):
    folder = save_tiny_model(tmp_path / "students" / "kd" / "model")
    (tmp_path / "report" / "cards").mkdir(parents=True)
    (tmp_path / "report" / "cards" / "kd.md").write_text("# A card")
    listed, pushed = commands(["push", str(folder), "me/tiny"], ["push", str(folder), "me/tiny", "--yes"])
    assert listed.code == 0, listed.err
    assert "nothing is uploaded without --yes" in listed.out
    assert "README.md" in listed.out
    assert pushed.code == 0, pushed.err
    assert sum("/commit/" in line for line in hub.asked) == 1, "by --yes alone"
    commit, files = hub.files("model", "me/tiny")
    assert set(files) == {"model.json", "model.safetensors", "tokens.txt", "README.md"}
    assert files["README.md"] == b"# A card"
    done = python(OPEN, "hf:me/tiny", f"hf:me/tiny@{commit}")
    assert done.returncode == 0, done.stderr
    opened = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(opened) == 2
    for sha256, _, key, _ in opened:
        assert key == [sha256] == [json.loads(files["model.json"])["weights_sha256"]]


@pytest.mark.slow
def test_an_interrupted_push_changes_nothing_and_runs_again(hub, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    hub.fail_commits = 99
    (failed,) = commands(["push", str(folder), "me/tiny", "--yes"])
    assert failed.code == 1
    assert "cannot be uploaded" in failed.err
    assert "Traceback" not in failed.err
    assert hub.files("model", "me/tiny")[1] == {}
    hub.fail_commits = 0
    (again,) = commands(["push", str(folder), "me/tiny", "--yes"])
    assert again.code == 0, again.err
    assert "model.safetensors" in hub.files("model", "me/tiny")[1]


@pytest.mark.slow
def test_wrong_revision_missing_repository_and_damage_are_one_message(hub, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    flipped = content["model.safetensors"][:-1] + bytes([content["model.safetensors"][-1] ^ 1])
    hub.create("model", "me/tiny")
    hub.commit("model", "me/tiny", "main", {**content, "model.safetensors": flipped, "evil.py": b"raise SystemExit(9)"})
    wrong = {"hf:me/tiny@v9": "the revision v9", "hf:me/other": "cannot be downloaded", "hf:me/tiny": "SHA-256"}
    outcomes = commands(*(["transcribe", place, str(tmp_path / "x.wav")] for place in wrong))
    for outcome, expected in zip(outcomes, wrong.values(), strict=True):
        assert outcome.code == 1
        assert expected in " ".join(outcome.err.split())
        assert "Traceback" not in outcome.err
    assert not list((tmp_path / "cache").rglob("evil.py"))  # no code is even downloaded


@pytest.mark.slow
def test_soft_targets_are_hub_datasets(hub, tmp_path):
    teacher = LocalTeacher(save_tiny_model(tmp_path / "teacher", streaming=False))
    utterances = write_corpus(tmp_path / "audio", 4)
    extract(teacher, utterances, TargetSettings(fidelity_utterances=2), tmp_path / "targets")
    (pushed,) = commands(["push", str(tmp_path / "targets"), "me/targets", "--yes"])
    assert pushed.code == 0, pushed.err
    assert ("dataset", "me/targets") in hub.commits
    done = python(STORE, "hf:me/targets")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sorted(u.id for u in utterances))


def test_names_are_checked_before_anything_is_sent(tmp_path):
    assert is_repository("hf:me/x")
    assert not is_repository("me/x")
    assert local_folder(Path("a/b")) == Path("a/b")
    with pytest.raises(HubError, match="not the name of a repository"):
        local_folder("hf:../../etc")
    with pytest.raises(HubError, match="nothing that can be pushed"):
        plan_push(tmp_path, "me/x")
    save_tiny_model(tmp_path / "model")
    with pytest.raises(HubError, match="not the name of a repository"):
        plan_push(tmp_path / "model", "nobody")
