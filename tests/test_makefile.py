"""What `make` prints before it begins, and what its test processes report."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_setup_says_so_when_the_disk_is_too_full_for_it(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    run = subprocess.run(["make", "setup", "SETUP_GB=99999999"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"make setup: {tmp_path} has " in run.stderr
    assert "needs 99999999. Free some" in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_gpu_check_is_skipped_without_a_gpu() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    words = [ROOT / "benchmarks" / "gpu_check.sh"]
    run = subprocess.run(words, capture_output=True, text=True, env=hidden)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("gpu_check: PyTorch finds no GPU here")


def test_the_whisper_demo_without_data_ends_with_one_message(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ASR_KD_CORPORA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["demo.py"])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        runpy.run_path("recipes/Whisper/demo.py", run_name="__main__")
    [message] = str(end.value.code).splitlines()
    assert message.startswith("demo-whisper: ")
    assert "AN4 not found" in message
    assert capsys.readouterr().err == ""


def test_a_test_process_that_dies_fails_the_run(tmp_path: Path) -> None:
    options = re.search(r"^PYTEST := .* -m pytest (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert options is not None
    (tmp_path / "test_dies.py").write_text("import os\n\ndef test_dies(): os._exit(0)\n\ndef test_passes(): pass\n")
    words = [sys.executable, "-m", "pytest", *options[1].split(), "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
    run = subprocess.run([*words, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, env=alone)
    assert run.returncode == 1, run.stdout
    assert "test_dies.py::test_dies" in run.stdout
    assert "1 failed, 1 passed" in run.stdout


def test_the_demo_hands_on_the_line_and_the_code_of_a_command_that_fails(tmp_path: Path) -> None:
    """In processes of their own: the very commands that a user runs."""
    words = [sys.executable, ROOT / "recipes/Synthetic/train_side_by_side.py", f"work_dir={tmp_path / 'run'}", "sed=2"]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "asr-kd: recipes/Synthetic/synthetic.yaml: unknown key 'sed': did you mean 'seed'? "
        "Correct the key in the recipe or in the override; nothing has run yet\n"
    )
    assert not (tmp_path / "run").exists()
