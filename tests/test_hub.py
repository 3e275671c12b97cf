"""push and hf: against a local stand-in for the hub, in processes of their own: the library reads its address once."""

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

pytest.importorskip("huggingface_hub")

OPEN = """
import json, sys, torch
import asr_kd
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
from asr_kd.training.warm_start import warm_start_sha256
from asr_kd.training.settings import TrainSettings
place = sys.argv[1]
loaded = asr_kd.load_model(place)
text = asr_kd.open_recognizer(place).transcribe([torch.zeros(16000)])
teacher = open_teacher_source(TeacherSource(source=place))
key = warm_start_sha256(TrainSettings(init_from=place))
print(json.dumps([loaded.sha256, str(text), key, teacher.model_sha256 if hasattr(teacher, "model_sha256") else ""]))
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
        env=dict(os.environ),
    )


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asr_kd", *words], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
def test_a_pushed_model_opens_by_name_and_revision(hub, tmp_path):
    folder = save_tiny_model(tmp_path / "students" / "kd" / "model")
    (tmp_path / "report" / "cards").mkdir(parents=True)
    (tmp_path / "report" / "cards" / "kd.md").write_text("# A card")
    listed = command("push", str(folder), "me/tiny")
    assert listed.returncode == 0, listed.stderr
    assert "nothing is uploaded without --yes" in listed.stdout
    assert "README.md" in listed.stdout
    assert hub.commits == {}
    pushed = command("push", str(folder), "me/tiny", "--yes")
    assert pushed.returncode == 0, pushed.stderr
    commit, files = hub.files("model", "me/tiny")
    assert set(files) == {"model.json", "model.safetensors", "tokens.txt", "README.md"}
    assert files["README.md"] == b"# A card"
    for place in ("hf:me/tiny", f"hf:me/tiny@{commit}"):
        done = python(OPEN, place)
        assert done.returncode == 0, done.stderr
        sha256, _, key, _ = json.loads(done.stdout.splitlines()[-1])
        assert key == [sha256] == [json.loads(files["model.json"])["weights_sha256"]]


@pytest.mark.slow
def test_an_interrupted_push_changes_nothing_and_runs_again(hub, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    hub.fail_commits = 99
    failed = command("push", str(folder), "me/tiny", "--yes")
    assert failed.returncode == 1
    assert "cannot be uploaded" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert hub.files("model", "me/tiny")[1] == {}
    hub.fail_commits = 0
    assert command("push", str(folder), "me/tiny", "--yes").returncode == 0
    assert "model.safetensors" in hub.files("model", "me/tiny")[1]


@pytest.mark.slow
def test_wrong_revision_missing_repository_and_damage_are_one_message(hub, tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    assert command("push", str(folder), "me/tiny", "--yes").returncode == 0
    for place, expected in (("hf:me/tiny@v9", "the revision v9"), ("hf:me/other", "cannot be downloaded")):
        done = command("transcribe", place, str(tmp_path / "x.wav"))
        assert done.returncode == 1
        assert expected in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    content = bytearray(hub.files("model", "me/tiny")[1]["model.safetensors"])
    content[-1] ^= 1
    hub.commit("model", "me/tiny", "main", {"model.safetensors": bytes(content), "evil.py": b"raise SystemExit(9)"})
    done = command("transcribe", "hf:me/tiny", str(tmp_path / "x.wav"))
    assert done.returncode == 1
    assert "SHA-256" in done.stderr
    assert not list((tmp_path / "cache").rglob("evil.py"))  # no code is even downloaded


@pytest.mark.slow
def test_soft_targets_are_hub_datasets(hub, tmp_path):
    teacher = LocalTeacher(save_tiny_model(tmp_path / "teacher", streaming=False))
    utterances = write_corpus(tmp_path / "audio", 4)
    extract(teacher, utterances, TargetSettings(fidelity_utterances=2), tmp_path / "targets")
    pushed = command("push", str(tmp_path / "targets"), "me/targets", "--yes")
    assert pushed.returncode == 0, pushed.stderr
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
