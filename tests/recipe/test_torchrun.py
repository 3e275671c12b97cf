"""`torchrun --nproc_per_node 2 -m asr_kd …`: a whole run, a process killed in training and in extraction, SIGTERM."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from asr_kd.targets import Store
from tests.helpers.tiny_run import ROOT, Outcome, Run, hashes

SYSTEMS = ("teachers.teacher", "students.student-hard", "students.student-kd")
QUIET = [
    f"{system}.{key}"
    for system in SYSTEMS
    for key in ("model.dropout=0", "train.augmentation.spec_augment=null", "train.random_chunk_offset=false")
]
"""What is random by process is off: the curve is that of one process."""
pytestmark = pytest.mark.slow
ONLY_HARD = ["--only", "student-hard"]


def start(words: list[str], *options: str) -> "subprocess.Popen[str]":
    """The command line under torchrun."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("SB_LOG_LEVEL", None)
    launcher = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *options]
    return subprocess.Popen(
        [*launcher, "-m", "asr_kd", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: "subprocess.Popen[str]", read: str = "") -> Outcome:
    out, err = process.communicate(timeout=600)
    return Outcome(process.returncode, read + out, err)


def complaints(outcome: Outcome) -> list[str]:
    return [line for line in outcome.err.splitlines() if line.startswith("asr-kd: ")]


def process_of(parent: "subprocess.Popen[str]", rank: int) -> int:
    """The id of torchrun's child of that rank."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return next(
        int(child) for child in children if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0")
    )


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def assert_same_model(one: Path, other: Path) -> None:
    """The same curve, and weights within rounding."""
    rows, expected = curve(one), curve(other)
    assert len(rows) == len(expected) > 0
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)
    weights, expected_weights = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    assert weights.keys() == expected_weights.keys()
    for name in weights:
        # Adam steps by up to the learning rate, 1e-2 here, along a gradient's sign: rounding where gradients are tiny
        # shows, a step too few would show more.
        assert_close(weights[name], expected_weights[name], atol=5e-3, rtol=0)


def test_a_whole_run_of_two_processes_is_that_of_one(finished, tmp_path):
    one, two = Run(tmp_path / "one", finished.corpus_root), Run(tmp_path / "two", finished.corpus_root)
    process = start(two.words("run", *QUIET))
    assert one.command("run", "--to", "student", *QUIET).code == 0
    outcome = end(process)
    assert (outcome.code, complaints(outcome)) == (0, []), outcome.err
    assert [step for step in outcome.did if not step.endswith(": starts")] == []
    assert len(outcome.did) == len(set(outcome.did)) == 7  # said once
    for name in ("teachers/teacher", "students/student-hard", "students/student-kd"):
        assert_same_model(two.file(name), one.file(name))
    assert json.loads(two.file("run.json").read_text())["processes"] == 2
    assert two.file("export", "student-kd", "bundle.json").is_file()
    assert "WER %" in outcome.out


def test_a_killed_process_and_sigterm_cost_no_more_than_the_last_step(copy):
    """Rank 1 is killed, torchrun starts both anew; SIGTERM stops them, and one process ends what two began."""
    longer = ["students.student-hard.train.epochs=12", "students.student-hard.train.checkpoint_minutes=0", *QUIET]
    once = copy.words("distill", *longer, *ONLY_HARD)
    process = start(once, "--max-restarts", "1")
    assert process.stdout is not None
    read, killed = "", False
    for line in process.stdout:
        read += line
        if "epoch 3/12" in line and not killed:
            os.kill(process_of(process, 1), signal.SIGKILL)
            killed = True
        if killed and "epoch 6/12" in line:
            process.send_signal(signal.SIGTERM)
            break
    outcome = end(process, read)
    assert outcome.code != 0
    assert "[student student-hard] resumes" in outcome.out
    resumed = re.search(r"resumes at epoch (\d+), batch (\d+)", outcome.out)
    assert resumed is not None
    assert int(resumed[1]) >= 3
    gone, stopped = complaints(outcome)
    assert "another process of this run is gone" in gone
    assert "training of student-hard stopped (SIGTERM)" in stopped
    again = copy.command("distill", *longer, *ONLY_HARD)
    assert again.code == 0, again.err
    assert int(re.search(r"resumes at epoch (\d+)", again.out)[1]) >= 6
    two = copy.file("students", "student-hard").rename(copy.work_dir / "two")
    assert copy.command("distill", *longer, *ONLY_HARD).code == 0
    assert_same_model(two, copy.file("students", "student-hard"))


def test_a_process_killed_in_extraction_costs_no_more_than_its_shard(copy):
    fine = ["targets.shard_seconds=8", "targets.batch_seconds=4", "targets.speeds=[0.8,0.9,1.0,1.1,1.2,1.3,1.4]"]
    folder = copy.file("targets", "teacher")
    process = start(copy.words("extract", *fine), "--max-restarts", "1")
    while not (folder / "shard-00001.json").exists():  # the second process' first
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process_of(process, 1), signal.SIGKILL)
    outcome = end(process)
    assert outcome.code == 0, outcome.err
    assert [step for step in outcome.did if step.startswith("extract")] == [
        "extract teacher: starts",
        "extract teacher: resumes",
    ]
    assert outcome.out.count("bytes a frame on disk") == 1
    made = {name: digest for name, digest in hashes(folder).items() if name.endswith(".safetensors")}
    assert len(made) > 10
    assert len(list(Store.open(folder).ids())) == 40
    assert copy.command("extract", *fine, "--force").code == 0
    assert {name: digest for name, digest in hashes(folder).items() if name.endswith(".safetensors")} == made
