"""Jobs that two processes train in a folder with noises, a teacher and its targets, for `test_distributed_training`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from asr_kd.distributed import Ranks, open_ranks
from asr_kd.errors import AsrKdError
from asr_kd.features.augment import Augmentation, Perturbation
from asr_kd.losses import DistillSettings
from asr_kd.models.weights import load_model
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.store import Store
from asr_kd.training.train import train
from asr_kd.training.training_job import Control, TrainingJob
from tests.helpers.jobs import Recorder, job_on, noises, stop_after
from tests.helpers.teachers_beside_training import BESIDE, UNCHANGED, Failure, TeacherBesideTraining, infinite_gradients

NOT_FINITE: dict[int, Failure] = {17_600: "loss", 22_400: "gradient"}
"""Length of an utterance in samples → what the teacher spoils in its step of each epoch."""


def quiet(folder: Path, settings: dict | None = None, **changes) -> TrainingJob:
    """A job without randomness but in its plan, which knows of no processes."""
    plain = Augmentation(speeds=(0.9, 1.0, 1.1), silence_share=0.5, spec_augment=None)
    settings = {"augmentation": plain, "random_chunk_offset": False, "epochs": 2, **(settings or {})}
    return job_on(noises(folder), settings=settings, model={"dropout": 0.0}, **changes)


def stored(folder: Path) -> TrainingJob:
    store = Store.open(folder / "targets")
    return quiet(folder, distill=DistillSettings(kd_weight=0.5, delay_frames=2), store=store)


def dense(folder: Path) -> TrainingJob:
    teacher = load_model(folder / "teacher" / "model").model
    distill = DistillSettings(kd_weight=0.5, temperature=2.0, targets="dense", delay_frames=1)
    return quiet(folder, distill=distill, dense_teacher=teacher)


def sequence(folder: Path) -> TrainingJob:
    hypotheses = HypothesisStore.open(folder / "hypotheses", normalizer="librispeech")
    return quiet(folder, distill=DistillSettings(kd_weight=0.5, level="sequence"), hypotheses=hypotheses)


def passes(folder: Path) -> TrainingJob:
    """Further passes of the student."""
    objectives = {"consistency": {}, "dual_mode": {"delay": "minimum", "delay_frames": 1}}
    return quiet(folder, distill=DistillSettings.model_validate({"objectives": objectives}))


def parameters(folder: Path) -> TrainingJob:
    """Objectives that have parameters, on layers of the student and of the teacher."""
    auxiliary = {"heads": 2, "dropout": 0.0, "ctc_weight": 0.5}
    objectives = {"auxiliary": auxiliary, "representation": {"pairs": [[1, 2], [2, 2]]}}
    distill = DistillSettings.model_validate({"objectives": objectives})
    return quiet(folder, distill=distill, store=Store.open(folder / "targets"))


def unreadable(folder: Path) -> TrainingJob:
    good = noises(folder)
    (folder / "broken.wav").write_bytes(good[0].audio.read_bytes()[:9_000])
    broken = [replace(good[index], id=f"cut-off-{index}", audio=folder / "broken.wav") for index in (0, 1)]
    return quiet(folder, {"max_bad_share": 0.3, "epochs": 2}, train=[*broken, *good[2:]])


def craft(folder: Path) -> TrainingJob:
    """What is drawn, averaged, scheduled and left without a transcript."""
    train_set = [replace(each, text=None) if number % 3 == 0 else each for number, each in enumerate(noises(folder))]
    augmentation = Augmentation(speeds=(0.9, 1.0), spec_augment=None, perturb=Perturbation(snr_db=(5, 20)))
    settings = {"augmentation": augmentation, "ema": {"decay": 0.9}, "curriculum_epochs": 1}
    distill = DistillSettings(kd_weight=0.8, kd_weight_final=0.2, kd_schedule="linear", untranscribed=True)
    return quiet(folder, settings, train=train_set, distill=distill, store=Store.open(folder / "targets"))


JOBS: dict[str, Callable[[Path], TrainingJob]] = {
    "labels": quiet,
    "stored": stored,
    "dense": dense,
    "sequence": sequence,
    "passes": passes,
    "craft": craft,
    "parameters": parameters,
    "inner": lambda folder: quiet(folder, {"inner_layers": (1,), "inner_weight": 0.5}),
    "one-by-one": lambda folder: quiet(folder, {"batch_seconds": 0.5, "epochs": 1, "workers": 1}),
    "unreadable": unreadable,
}
"""Jobs whose curve is the same for any number of processes."""


def random(folder: Path) -> TrainingJob:
    return job_on(noises(folder), seed=5)  # with 3 the first frames are zero, see models.conformer


def not_finite(folder: Path) -> TrainingJob:
    teacher = TeacherBesideTraining(
        lambda lens: next((kind for length, kind in NOT_FINITE.items() if length in lens), None)
    )
    return quiet(folder, {"augmentation": UNCHANGED}, distill=BESIDE, dense_teacher=teacher)


def train_all(folder: Path) -> None:
    """Train every job, as one of the processes, and write what was said to rank-N.json."""
    torch.set_num_threads(1)
    said: dict[str, list[str]] = {}

    def run(name: str, job: TrainingJob, ranks: Ranks, place: str = "", stop: int = 0) -> None:
        recorder = Recorder()
        try:
            train(
                job,
                folder / "two" / (place or name),
                Control(progress=recorder, ranks=ranks, should_stop=stop_after(stop)),
            )
        except AsrKdError as error:
            recorder.lines.append(f"{type(error).__name__}: {error}")
        said[name] = said.get(name, []) + recorder.lines

    with open_ranks() as ranks:
        for name, make in JOBS.items():
            run(name, make(folder), ranks)
        run("random", random(folder), ranks)
        for _ in range(3):
            run("random in pieces", random(folder), ranks, stop=0 if ranks.first else 3)  # only the second wants to
        run("random in pieces", random(folder), ranks)
        run("two, one, two", quiet(folder), ranks, stop=3)
        if ranks.first:
            run("two, one, two", quiet(folder), Ranks(), stop=3)
        ranks.barrier()
        run("two, one, two", quiet(folder), ranks)
        for _ in range(2):  # each has a disk of its own
            run("not shared", quiet(folder), ranks, place=f"disk {ranks.rank}", stop=3)
        run("too much", replace_share(unreadable(folder)), ranks)
        spoilt = not_finite(folder)
        with infinite_gradients(spoilt.dense_teacher):
            run("not finite", spoilt, ranks)
        said["talk"] = [json.dumps(ranks.gather([ranks.rank, "ä"])), json.dumps(ranks.broadcast({"from": ranks.rank}))]
        numbers = torch.tensor([1.0, float(ranks.rank)])
        ranks.sum(numbers)
        said["talk"].append(json.dumps(numbers.tolist()))
        (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(said))


def replace_share(job: TrainingJob) -> TrainingJob:
    return replace(job, train=job.train.model_copy(update={"max_bad_share": 0.05}))
