"""Training, resuming, bf16 and extraction on a GPU; `benchmarks/gpu_check.sh` runs these. Skipped without one.

ASR_KD_GPU_CHECK=cpu runs the same tests on the CPU, as a rehearsal.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asr_kd.errors import StoppedEarly, TrainingError
from asr_kd.models.weights import read_tensors
from asr_kd.targets.extract import extract
from asr_kd.targets.inspect import verify
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.sharding import Share
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import Recorder, noises, stop_after
from tests.helpers.teachers_beside_training import BESIDE, TeacherBesideTraining

DEVICE = os.environ.get("ASR_KD_GPU_CHECK", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="PyTorch finds no GPU")


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["train_loss"] for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_the_losses_are_those_of_the_cpu(make_job, tmp_path):
    settings = {"epochs": 2, "learning_rate": 1e-3}
    train(make_job(settings=settings), tmp_path / "cpu", Control())
    train(make_job(settings=settings), tmp_path / "gpu", Control(torch.device(DEVICE)))
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=0.05)  # dropout draws elsewhere


def test_bf16_trains(make_job, tmp_path):
    train(make_job(settings={"epochs": 2, "precision": "bf16"}), tmp_path, Control(torch.device(DEVICE)))
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]


def test_a_stopped_run_resumes_to_the_same_weights(make_job, tmp_path):
    job = make_job(settings={"epochs": 2})
    train(job, tmp_path / "whole", Control(torch.device(DEVICE)))
    with pytest.raises(StoppedEarly):
        train(job, tmp_path / "parts", Control(torch.device(DEVICE), should_stop=stop_after(3)))
    train(job, tmp_path / "parts", Control(torch.device(DEVICE)))
    whole, parts = (read_tensors(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    for name, tensor in whole.items():  # CTC's gradient is summed in no fixed order on a GPU
        torch.testing.assert_close(parts[name], tensor, atol=1e-3, rtol=1e-3)


def test_steps_that_do_not_fit_into_memory_are_skipped(make_job, tmp_path):
    """Without a single gradient: their norm is a number on the CPU."""
    recorder = Recorder()
    job = make_job(distill=BESIDE, dense_teacher=TeacherBesideTraining(lambda lens: "memory"))
    with pytest.raises(TrainingError, match="steps in a row are not finite"):
        train(job, tmp_path, Control(torch.device(DEVICE), progress=recorder))
    assert any("even one by one" in line for line in recorder.lines)


def test_targets_are_those_of_the_cpu_and_two_processes_share_one_device(make_job, tmp_path):
    model = train(make_job(model={"streaming": None}, settings={"epochs": 1}), tmp_path / "run", Control())
    utterances = noises(tmp_path)
    waveform, lens = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)), torch.tensor([16000])
    ours = LocalTeacher(model, DEVICE).log_probs(waveform, lens).log_probs.cpu()
    torch.testing.assert_close(ours, LocalTeacher(model).log_probs(waveform, lens).log_probs, atol=1e-3, rtol=1e-3)
    settings = TargetSettings(speeds=(1.0,), shard_seconds=4.0)
    code = (
        "import sys; from pathlib import Path; from tests.training.test_on_gpu import extract_share; "
        "extract_share(*map(Path, sys.argv[1:4]), sys.argv[4])"
    )
    words = [sys.executable, "-c", code, str(model), str(tmp_path), str(tmp_path / "store")]
    running = [subprocess.Popen([*words, share]) for share in ("1/2", "2/2")]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    report = extract(LocalTeacher(model, DEVICE), utterances, settings, tmp_path / "store")
    assert report.complete
    assert verify(tmp_path / "store").ok


def extract_share(model: Path, audio: Path, store: Path, share: str) -> None:
    """Extract a share of the noises; run in a process of its own."""
    settings = TargetSettings(speeds=(1.0,), shard_seconds=4.0)
    extract(LocalTeacher(model, DEVICE), noises(audio), settings, store, Share.parse(share))
