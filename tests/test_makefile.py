"""What `make` says before it begins."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_setup_says_so_when_the_disk_is_too_full_for_it(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    run = subprocess.run(["make", "setup", "SETUP_GB=99999999"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode != 0
    assert f"make setup: {tmp_path} has " in run.stderr
    assert "needs 99999999. Free some" in run.stderr
    assert not (tmp_path / ".venv").exists()
