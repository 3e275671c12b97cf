"""Results of an evaluation as plain data: the contents of results.json, rows of hypotheses, and their provenance.

Every rate is a fraction; percentages exist only where they are printed. An undefined value is null, beside
its reason.
"""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import asr_kd
from asr_kd.evaluation.cells import UNKNOWN
from asr_kd.evaluation.comparison import Comparison, SeedRows
from asr_kd.evaluation.report.loading import FORMAT, FORMAT_VERSION, Report, Row, rows_text
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import AnySystem, Role, System, report_order
from asr_kd.evaluation.system_outputs import ScoredSet
from asr_kd.scoring.significance import Resampling
from asr_kd.targets.bridge import BridgeSettings


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that the caller passes on to the report."""

    synthetic: bool = False
    seeds: tuple[int, ...] = ()
    """Training seeds of the systems."""
    seed_rows: SeedRows = field(default_factory=SeedRows)
    """Systems that differ only in their seed, by names."""
    absent_sets: dict[str, str] = field(default_factory=dict)
    """Test set → why it was not evaluated."""
    command: str | None = None
    """None: this process' own command line."""
    absent_systems: Mapping[str, str] = field(default_factory=dict)
    """System → why it was not evaluated."""
    comparisons: tuple[Comparison, ...] = ()
    """Pairs of students to compare, beside that of the roles student_hard and student_kd; those of an absent student
    are left out, and an absent teacher leaves the difference."""
    teachers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a teacher → what is known of distilling from it (how it was bridged, what its targets take …), as plain
    data for the report."""
    recipe: str | None = None
    corpus: str | None = None
    """The corpus' name, for the report and for model cards."""
    dev_sets: tuple[str, ...] = ()
    """Sets that training used to select epochs; the headline is of another one where there is one."""
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """System → a row for each epoch of its training (epoch, dev_wer, …)."""
    pseudo_labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of pseudo-labels → their source, the yield of every filter, the sets that they are the references of."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """External system → its role where it is not "other"."""
    bridge: BridgeSettings | None = None
    """How a teacher's frames and symbols become its students', to compare the two frame by frame; None: the default."""


def summarize(
    systems: Sequence[AnySystem],
    sets: Mapping[str, ScoredSet],
    settings: EvaluationSettings,
    facts: RunFacts,
    costs: Mapping[str, dict[str, Any]] | None = None,
    matrix: Mapping[str, list[dict[str, Any]]] | None = None,
    robustness: Mapping[str, list[dict[str, Any]]] | None = None,
) -> Report:
    """The contents of results.json, with the rows of all hypotheses.

    ``test_sets`` → set → ``teacher | student_hard | student_kd`` (and other systems by name) → errors, beside
    ``comparisons`` (every pair of students, with the gap it recovered), ``gap_recovered`` (that of student_kd and
    student_hard), ``pairs`` (every two systems, tested), ``agreement`` (every student beside its teacher) and facts of
    the set, or ``skipped`` with a reason; ``absent_systems`` → why they are not there; ``models`` → system → cost and
    details; ``seeds`` → row of several training runs → mean and spread on each set; ``matrix``,
    ``robustness`` → system → rows; ``teachers`` → what is known of distilling from them; ``pseudo_labels`` → yield of
    their filters; ``provenance`` → where the numbers come from.

    Args:
        costs: results of `cost_report.cost_report`; those of a system without one are unknown.
        matrix, robustness: system's key → rows of `sweeps`.
    """
    test_sets: dict[str, Any] = {name: {**found.entry, **_hashes(found.rows)} for name, found in sets.items()}
    test_sets |= {name: {"skipped": reason} for name, reason in facts.absent_sets.items() if name not in test_sets}
    by_key = {system.key: system for system in systems}
    seeds: dict[str, list[dict[str, Any]]] = {}
    for name, found in sets.items():
        for row, entry in found.seeds.items():
            seeds.setdefault(row, []).append({"set": name, **entry})
    summary = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "test_sets": test_sets,
        "absent_systems": dict(facts.absent_systems),
        "models": {key: _model(by_key[key], (costs or {}).get(key, {})) for key in report_order(by_key)},
        "seeds": seeds,
        "teachers": {name: dict(known) for name, known in facts.teachers.items()},
        "pseudo_labels": {name: dict(known) for name, known in facts.pseudo_labels.items()},
        "curves": {name: [dict(row) for row in rows] for name, rows in facts.curves.items()},
        "provenance": {
            "normalizer": settings.normalizer,
            "synthetic": facts.synthetic,
            "seeds": list(facts.seeds),
            "recipe": facts.recipe,
            "corpus": facts.corpus,
            "dev_sets": list(facts.dev_sets),
            "bootstrap": {
                "samples": settings.bootstrap_samples,
                "seed": settings.bootstrap_seed,
                "confidence": Resampling().confidence,
            },
            **provenance(facts.command),
        },
        "matrix": dict(matrix or {}),
        "robustness": dict(robustness or {}),
    }
    return Report(summary, {name: found.rows for name, found in sets.items()})


def _hashes(rows: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """SHA-256 of a set's references, which all systems share, and of each system's file of hypotheses."""
    digest = hashlib.sha256()  # in any order: equal exactly when the references are the same
    for utterance_id, reference in sorted((row["id"], row["reference"]) for row in next(iter(rows.values()))):
        digest.update(json.dumps([utterance_id, reference]).encode() + b"\n")
    return {
        "references_sha256": digest.hexdigest(),
        "hypotheses_sha256": {key: hashlib.sha256(rows_text(own).encode()).hexdigest() for key, own in rows.items()},
    }


def _model(system: AnySystem, cost: Mapping[str, Any]) -> dict[str, Any]:
    """A system's entry among the models; measured values take precedence over those of a model's card."""
    measured = {
        "name": system.name,
        "role": system.role,
        "parameters": cost.get("parameters"),
        "size_bytes": cost.get("size_bytes", {}).get("fp32"),
        "real_time_factor": cost.get("rtf", {}).get("whole"),
        "streaming_real_time_factor": cost.get("rtf", {}).get("streamed"),
        "rtf_utterances": cost.get("rtf_utterances", 0),
        "rtf_threads": 1,
        "device": system.device if isinstance(system, System) else UNKNOWN,
    }
    details = {name: value for name, value in system.details.items() if name not in measured}
    return {**measured, **details, **({"cost": cost} if cost else {})}


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
        with suppress(PackageNotFoundError):
            found[package] = version(package)
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
