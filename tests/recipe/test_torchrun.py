"""Two processes of the command line: a whole run and a killed extraction under torchrun, killed training, SIGTERM."""

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
from tests.helpers.processes import Started, command_line, start_ranks
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


def complaints(*errors: str) -> list[str]:
    return [line for error in errors for line in error.splitlines() if line.startswith("asr-kd: ")]


def ended(ranks: list[Started]) -> tuple[list[int], str, list[str]]:
    """Exit codes of both processes, what is left of the first one's output, and the complaints of both."""
    codes, outs, errors = zip(*(rank.end() for rank in ranks), strict=True)
    return list(codes), outs[0], complaints(*errors)


def wait_for_line(rank: Started, words: str) -> str:
    """Read until a line with these words; return what was read."""
    read = ""
    for line in rank.stdout:
        read += line
        if words in line:
            return read
    raise AssertionError(f"no line with {words!r}: {read}{rank.end()}")


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


def under_torchrun(words: list[str], *options: str) -> "subprocess.Popen[str]":
    """The command line in two processes of torchrun."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("SB_LOG_LEVEL", None)  # speechbrain leaves it behind where it was imported, as in this process
    launcher = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *options]
    return subprocess.Popen(
        [*launcher, "-m", "asr_kd", *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def end(process: "subprocess.Popen[str]") -> Outcome:
    out, err = process.communicate(timeout=600)
    return Outcome(process.returncode, out, err)


def process_of(parent: "subprocess.Popen[str]", rank: int) -> int:
    """The id of torchrun's child of that rank."""
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return next(
        int(child) for child in children if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0")
    )


def test_a_whole_run_under_torchrun_is_that_of_one_process(finished, tmp_path):
    one, two = Run(tmp_path / "one", finished.corpus_root), Run(tmp_path / "two", finished.corpus_root)
    outcome = end(under_torchrun(two.words("run", *QUIET)))
    assert (outcome.code, complaints(outcome.err)) == (0, []), outcome.err
    assert [step for step in outcome.did if not step.endswith(": starts")] == []
    assert len(outcome.did) == len(set(outcome.did)) == 7  # said once
    assert one.command("run", "--to", "student", *QUIET).code == 0
    for name in ("teachers/teacher", "students/student-hard", "students/student-kd"):
        assert_same_model(two.file(name), one.file(name))
    assert json.loads(two.file("run.json").read_text())["processes"] == 2
    assert two.file("export", "student-kd", "bundle.json").is_file()
    assert "WER %" in outcome.out


def test_a_killed_process_and_sigterm_cost_no_more_than_the_last_step(copy):
    """The second process is killed, both start anew; SIGTERM stops them, and one process ends what two began."""
    longer = ["students.student-hard.train.epochs=12", "students.student-hard.train.checkpoint_minutes=0", *QUIET]
    once = copy.words("distill", *longer, *ONLY_HARD)
    ranks = start_ranks(command_line, *once)
    wait_for_line(ranks[0], "epoch 3/12")
    ranks[1].send_signal(signal.SIGKILL)
    codes, _, gone = ended(ranks)
    assert (codes, len(gone)) == ([1, -signal.SIGKILL], 1)
    assert "another process of this run is gone" in gone[0]

    ranks = start_ranks(command_line, *once)
    read = wait_for_line(ranks[0], "epoch 6/12")
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    codes, _, stopped = ended(ranks)
    assert (codes, len(stopped)) == ([75, 75], 1)
    assert "training of student-hard stopped (SIGTERM)" in stopped[0]
    assert "[student student-hard] resumes" in read
    assert int(re.search(r"resumes at epoch (\d+), batch (\d+)", read)[1]) >= 3
    again = copy.command("distill", *longer, *ONLY_HARD)
    assert again.code == 0, again.err
    assert int(re.search(r"resumes at epoch (\d+)", again.out)[1]) >= 6
    two = copy.file("students", "student-hard").rename(copy.work_dir / "two")
    assert copy.command("distill", *longer, *ONLY_HARD).code == 0
    assert_same_model(two, copy.file("students", "student-hard"))


def test_a_process_killed_in_extraction_costs_no_more_than_its_shard(copy):
    fine = ["targets.shard_seconds=8", "targets.batch_seconds=4", "targets.speeds=[0.8,0.9,1.0,1.1,1.2,1.3,1.4]"]
    folder = copy.file("targets", "teacher")
    process = under_torchrun(copy.words("extract", *fine), "--max-restarts", "1")
    while not (folder / "shard-00001.json").exists():  # the second process' first
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    os.kill(process_of(process, 1), signal.SIGKILL)
    outcome = end(process)  # torchrun starts both anew
    assert outcome.code == 0, outcome.err
    extracted = [step for step in outcome.did if step.startswith("extract")]
    assert extracted == ["extract teacher: starts", "extract teacher: resumes"]
    assert outcome.out.count("bytes a frame on disk") == 1
    made = {name: digest for name, digest in hashes(folder).items() if name.endswith(".safetensors")}
    assert len(made) > 10
    assert len(list(Store.open(folder).ids())) == 40
    assert copy.command("extract", *fine, "--force").code == 0
    assert {name: digest for name, digest in hashes(folder).items() if name.endswith(".safetensors")} == made
