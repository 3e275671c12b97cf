"""Training: resumed = uninterrupted, bad steps and bad audio left out and counted, targets of the same audio."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import CheckpointError, StoppedEarly, TrainingError
from asr_kd.features.augment import NO_AUGMENTATION, Augmentation
from asr_kd.losses import DistillSettings, Objective, Shape
from asr_kd.models.conformer import Conformer
from asr_kd.models.weights import load_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training import dataset
from asr_kd.training.checkpoint import FILES, best_epochs, load_average
from asr_kd.training.selection import select
from asr_kd.training.step import Stepper
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import Recorder, stop_after, weights_of
from tests.helpers.teachers_beside_training import BESIDE, TeacherBesideTraining, infinite_gradients
from tests.helpers.tiny_models import noise_speech


def test_interrupted_anywhere_equals_uninterrupted(make_job, tmp_path):
    job = make_job()
    train(job, tmp_path / "whole", Control())
    for _ in range(3):
        with pytest.raises(StoppedEarly, match="state is saved") as stopped:
            train(job, tmp_path / "pieces", Control(should_stop=stop_after(3)))
        assert stopped.value.exit_code == 75
    train(job, tmp_path / "pieces", Control())
    assert weights_of(tmp_path / "pieces") == weights_of(tmp_path / "whole")
    curves = [(tmp_path / name / "curve.jsonl").read_text() for name in ("whole", "pieces")]
    assert curves[0] == curves[1]
    assert len(curves[0].splitlines()) == 3


def test_damaged_newest_checkpoint_falls_back_and_says_so(make_job, tmp_path):
    job, folder, recorder = make_job(), tmp_path / "run", Recorder()
    train(job, tmp_path / "whole", Control())
    for _ in range(2):
        with pytest.raises(StoppedEarly):
            train(job, folder, Control(should_stop=stop_after(2)))
    newest = sorted((folder / "checkpoints").glob("step-*"))[-1]
    weights = newest / FILES[0]
    weights.write_bytes(weights.read_bytes()[:-100])
    train(job, folder, Control(progress=recorder))
    assert any("checkpoint skipped" in line and FILES[0] in line for line in recorder.lines)
    assert weights_of(folder) == weights_of(tmp_path / "whole")


def test_checkpoints_all_damaged_or_of_another_job_are_refused(make_job, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(StoppedEarly):
        train(make_job(), folder, Control(should_stop=stop_after(2)))
    with pytest.raises(CheckpointError, match="other settings or data"):
        train(make_job(key="of another run"), folder, Control())
    for path in (folder / "checkpoints").rglob("progress.json"):
        path.write_text("{}")
    with pytest.raises(CheckpointError, match="none of 1 checkpoints is intact"):
        train(make_job(), folder, Control())


def test_steps_that_are_not_finite_are_counted_and_too_many_in_a_row_stop(make_job, tmp_path):
    teacher = TeacherBesideTraining(lambda lens: "loss" if teacher.calls in (2, 3) else None)  # a call a step
    recorder = Recorder()
    model = train(make_job(distill=BESIDE, dense_teacher=teacher), tmp_path / "some", Control(progress=recorder))
    assert load_model(model).card["nonfinite_steps"] == 2
    assert sum("not finite" in line and "noise-" in line for line in recorder.lines) == 2
    job = make_job(settings={"epochs": 5}, distill=BESIDE, dense_teacher=TeacherBesideTraining(lambda lens: "loss"))
    with pytest.raises(TrainingError, match=r"6 steps in a row.*noise-"):
        train(job, tmp_path / "all", Control())


def test_the_training_loss_is_the_mean_of_the_finite_steps_also_after_a_resume(make_job, tmp_path):
    for stops in (False, True):
        teacher = TeacherBesideTraining(lambda lens: "loss" if teacher.calls == 1 else None)  # noqa: B023
        job, folder = make_job(settings={"epochs": 1}, distill=BESIDE, dense_teacher=teacher), tmp_path / str(stops)
        losses, take = [], Stepper.take

        def recorded(self, *given):
            loss, parts = take(self, *given)  # noqa: B023
            losses.append(loss)  # noqa: B023
            return loss, parts

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Stepper, "take", recorded)
            if stops:
                with pytest.raises(StoppedEarly):
                    train(job, folder, Control(should_stop=stop_after(2)))
            train(job, folder, Control())
        finite = [loss for loss in losses if math.isfinite(loss)]
        assert len(finite) == len(losses) - 1 > 0
        (row,) = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
        assert row["train_loss"] == pytest.approx(sum(finite) / len(finite))


@pytest.mark.parametrize("failure", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights_alone(make_job, tmp_path, failure):
    settings = {"epochs": 1, "max_nonfinite_steps": 100}
    teacher = TeacherBesideTraining(lambda lens: failure)
    job = make_job(settings=settings, distill=BESIDE, dense_teacher=teacher)
    with infinite_gradients(teacher):
        trained = load_model(train(job, tmp_path / "run", Control())).model
    torch.manual_seed(job.seed)
    fresh = Conformer(job.model, len(job.vocabulary))
    for name, parameter in fresh.named_parameters():
        assert trained.get_parameter(name).equal(parameter)


def test_a_batch_that_does_not_fit_into_memory_is_computed_in_pieces(make_job, tmp_path):
    """The same curve within rounding; what does not fit even one by one is left out and named."""
    recorder, most = Recorder(), 9
    teacher = TeacherBesideTraining(lambda lens: "memory" if len(lens) > most else None)
    quiet = {"augmentation": NO_AUGMENTATION, "random_chunk_offset": False, "epochs": 2}
    job = make_job(settings=quiet, model={"dropout": 0.0}, distill=BESIDE, dense_teacher=teacher)
    train(job, tmp_path / "large", Control())
    most = 2
    train(job, tmp_path / "small", Control(progress=recorder))
    assert sum("computed in 2 pieces" in line and "noise-" in line for line in recorder.lines) > 1
    weights = [load_model(tmp_path / name / "model").model.output.weight for name in ("large", "small")]
    torch.testing.assert_close(*weights, atol=1e-4, rtol=0)
    most = 0
    with pytest.raises(TrainingError, match=r"steps in a row are not finite.*noise-"):
        train(job, tmp_path / "none", Control(progress=recorder))
    assert any("even one by one" in line for line in recorder.lines)


def test_unreadable_audio_is_listed_and_too_much_of_it_stops(make_job, utterances, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(utterances[0].audio.read_bytes()[:9_000])
    train_set = [replace(utterances[0], id="cut-off", audio=broken), *utterances[1:]]
    model = train(make_job(train=train_set, settings={"max_bad_share": 0.2}), tmp_path / "run", Control())
    rows = [json.loads(line) for line in (model.parent / "excluded.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["cut-off"]
    assert str(broken) in rows[0]["reason"]
    with pytest.raises(TrainingError, match=r"11\.1 %.*max_bad_share"):
        train(make_job(train=train_set), tmp_path / "strict", Control())


def test_an_unreadable_dev_utterance_is_said_once(make_job, utterances, tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(utterances[0].audio.read_bytes()[:9_000])
    recorder = Recorder()
    job = replace(make_job(), dev_utterances=[replace(utterances[0], id="cut-off", audio=broken), *utterances[9:]])
    train(job, tmp_path / "run", Control(progress=recorder))
    assert sum("dev utterance cut-off" in line and str(broken) in line for line in recorder.lines) == 1


def test_what_cannot_be_trained_on_is_listed_with_its_reason(make_job, utterances):
    odd = [
        replace(utterances[0], id="empty", text=" "),
        replace(utterances[1], id="foreign", text="BÄD"),
        replace(utterances[2], id="long", text="BAD " * 20),
        replace(utterances[3], id="none", text=None),
        utterances[4],
    ]
    found = select(make_job(train=odd), Objective.from_settings(None, Shape(blank_id=0)))
    assert [u.id for u in found.utterances] == [utterances[4].id]
    assert len(found.tokens) == 1
    reasons = {row["id"]: row["reason"] for row in found.excluded}
    assert reasons["empty"] == reasons["none"] == "empty transcript"
    assert "Ä" in reasons["foreign"]
    assert "needs" in reasons["long"]
    found = select(make_job(train=odd), Objective.from_settings(DistillSettings(kd_weight=1.0), Shape(blank_id=0)))
    assert len(found.utterances) == 5
    assert not found.excluded


def distil(make_job, folder: Path, utterances, **distill) -> Path:
    teacher_job = make_job(name="teacher", settings={"epochs": 1})
    teacher = LocalTeacher(train(teacher_job, folder / "teacher", Control()))
    extract(teacher, utterances[:9], TargetSettings(speeds=(0.9, 1.0, 1.1)), folder / "targets")
    store = Store.open(folder / "targets", vocabulary=teacher_job.vocabulary, teacher_sha256=teacher.sha256)
    job = make_job(distill=DistillSettings(**distill), store=store, settings={"epochs": 2})
    return train(job, folder / "student", Control())


def test_distils_from_the_store_at_every_speed_with_a_delay(make_job, utterances, tmp_path):
    model = distil(make_job, tmp_path, utterances, kd_weight=0.5, delay_frames=2)
    rows = [json.loads(line) for line in (model.parent / "curve.jsonl").read_text().splitlines()]
    assert all(0 < row["train_loss"] < float("inf") for row in rows)


def test_distils_without_transcripts(make_job, utterances, tmp_path):
    untranscribed = [replace(u, text=None) for u in utterances[:9]]
    teacher_job = make_job(name="teacher", settings={"epochs": 1})
    teacher = LocalTeacher(train(teacher_job, tmp_path / "teacher", Control()))
    extract(teacher, untranscribed, TargetSettings(speeds=(0.9, 1.0, 1.1)), tmp_path / "targets")
    store = Store.open(tmp_path / "targets")
    job = make_job(train=untranscribed, distill=DistillSettings(kd_weight=1.0), store=store)
    assert load_model(train(job, tmp_path / "student", Control())).card["training_utterances"] == 9


def test_dense_targets_run_along_with_a_temperature(make_job, tmp_path):
    teacher = load_model(train(make_job(name="teacher", settings={"epochs": 1}), tmp_path / "teacher", Control()))
    distill = DistillSettings(kd_weight=0.5, temperature=2.0, targets="dense", delay_frames=1)
    job = make_job(distill=distill, dense_teacher=teacher.model, settings={"epochs": 1})
    assert train(job, tmp_path / "student", Control()).is_dir()


def test_inner_layers_mix_into_the_loss_by_their_weight(make_job, tmp_path):
    """With a share of 0 the first step is that of training without; with more, it is not."""
    weights = {}
    for name, inner in (("none", {}), ("zero", {"inner_weight": 0.0}), ("some", {"inner_weight": 0.5})):
        layers = () if name == "none" else (1,)
        job = make_job(settings={"epochs": 1, "inner_layers": layers, **inner})
        weights[name] = load_model(train(job, tmp_path / name, Control())).model.output.weight
    torch.testing.assert_close(weights["zero"], weights["none"])
    assert not torch.allclose(weights["some"], weights["none"], atol=1e-4)


def test_bf16_trains(make_job, tmp_path):
    folder = train(make_job(settings={"epochs": 1, "precision": "bf16"}), tmp_path / "run", Control())
    assert all(p.isfinite().all() for p in load_model(folder).model.parameters())


def test_workers_read_the_same_batches(make_job, tmp_path):
    for workers in (0, 1):
        train(make_job(settings={"epochs": 2, "workers": workers}), tmp_path / str(workers), Control())
    assert weights_of(tmp_path / "0") == weights_of(tmp_path / "1")


@pytest.mark.parametrize("workers", [0, 1])
def test_recordings_that_fit_the_cache_are_read_once_in_all_epochs(make_job, tmp_path, monkeypatch, workers):
    def counted(utterance):
        with (tmp_path / "read.txt").open("a") as file:
            file.write(f"{utterance.id}\n")
        return read_utterance(utterance)

    monkeypatch.setattr(dataset, "read_utterance", counted)
    train(make_job(settings={"workers": workers, "augmentation": Augmentation()}), tmp_path / "run", Control())
    assert sorted((tmp_path / "read.txt").read_text().split()) == sorted(f"noise-{number}" for number in range(12))


def test_a_loss_that_trains_nothing_is_refused(make_job, tmp_path):
    """Frozen layers are matched to those of a teacher, without a projection that could be trained."""
    settings = {"pairs": [[1, 1]], "projection": "none"}
    distill = DistillSettings(kd_weight=1.0, targets="dense", objectives={"representation": settings})
    teacher = load_model(train(make_job(name="teacher", settings={"epochs": 1}), tmp_path / "teacher", Control())).model
    job = make_job(settings={"frozen_epochs": 1}, distill=distill, dense_teacher=teacher)
    with pytest.raises(TrainingError, match="no parameter that is trained"):
        train(job, tmp_path / "student", Control())


def test_final_weights_are_the_mean_of_the_best_epochs(make_job, tmp_path):
    model = train(make_job(), tmp_path / "run", Control())
    curve = [json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()]
    chosen = best_epochs(curve, 2)
    assert load_model(model).card["averaged_epochs"] == chosen
    from safetensors.torch import load_file

    kept = [load_file(tmp_path / "run" / "best" / f"epoch-{epoch:05d}.safetensors") for epoch in chosen]
    expected = (kept[0]["output.weight"].double() + kept[1]["output.weight"].double()) / 2
    torch.testing.assert_close(load_model(model).model.output.weight.double(), expected, atol=1e-7, rtol=0)
    assert len(list((tmp_path / "run" / "best").iterdir())) <= 3


def test_average_of_one_is_itself(make_job, tmp_path):
    loaded = load_model(train(make_job(settings={"epochs": 1}), tmp_path / "run", Control())).model
    before = loaded.output.weight.clone()
    load_average(loaded, [tmp_path / "run" / "best" / "epoch-00001.safetensors"] * 3)
    torch.testing.assert_close(loaded.output.weight, before, atol=1e-7, rtol=0)


def test_best_epochs_by_word_errors_then_loss():
    curve = [
        {"epoch": 1, "dev_wer": 0.5, "dev_loss": 1.0},
        {"epoch": 2, "dev_wer": 0.3, "dev_loss": 0.9},
        {"epoch": 3},
        {"epoch": 4, "dev_wer": 0.3, "dev_loss": 0.8},
    ]
    assert best_epochs(curve, 2) == [4, 2]
    assert best_epochs(curve, 9) == [4, 2, 1]


@pytest.mark.parametrize("untranscribed", [False, True])
def test_audio_without_an_encoder_frame_is_left_out_with_and_without_transcripts(
    make_job, utterances, tmp_path, untranscribed
):
    """Alone in a batch it would have no frame to divide the loss by."""
    short = tmp_path / "short.wav"
    soundfile.write(short, noise_speech(0.06).numpy(), 16_000)
    odd = replace(utterances[0], id="short", audio=short, duration=0.06, text=None)
    distill = DistillSettings(kd_weight=0.5 if untranscribed else 1.0, untranscribed=untranscribed, targets="dense")
    teacher = load_model(train(make_job(name="teacher", settings={"epochs": 1}), tmp_path / "teacher", Control()))
    settings = {"epochs": 1, "batch_seconds": 0.5}  # a batch of its own
    job = make_job(train=[odd, *utterances[1:4]], settings=settings, distill=distill, dense_teacher=teacher.model)
    model = train(job, tmp_path / "student", Control())
    assert load_model(model).card["nonfinite_steps"] == 0
    (row,) = (json.loads(line) for line in (model.parent / "excluded.jsonl").read_text().splitlines())
    assert (row["id"], row["reason"]) == ("short", "too short: no frame of 40 ms at the fastest speed")
