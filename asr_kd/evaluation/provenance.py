"""Where numbers come from: date, machine, versions, git commit, command."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import asr_kd

PACKAGES = ("torch", "torchaudio", "speechbrain", "jiwer", "numpy", "soundfile", "librosa", "onnxruntime")
_CPU_INFO = Path("/proc/cpuinfo")


def provenance(command: str | None = None) -> dict[str, Any]:
    """Facts about this process as plain data: date (UTC), command, git_commit, machine, versions."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command or command_line(),
        "git_commit": git_commit(),
        "machine": {
            "cpu": cpu_model(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": versions(),
    }


def command_line() -> str:
    """This process' command, the program without its folder, quoted for a shell; `python -m asr_kd` is asr-kd."""
    program = Path(sys.argv[0]).name
    return shlex.join(["asr-kd" if program == "__main__.py" else program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Versions of Python, this package and what numbers depend on; packages that are absent are left out."""
    found = {"python": platform.python_version(), "asr-kd": asr_kd.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with "-dirty" for local changes; None without one."""
    root = Path(asr_kd.__file__).resolve().parent.parent
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None  # installed somewhere inside another project's checkout
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}-dirty" if commit and changed else commit


def cpu_model() -> str:
    """The processor's name as the system reports it."""
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
