"""Further passes, and objectives with parameters of their own: exact resuming, pieces, the model folder."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from asr_kd.errors import StoppedEarly, TrainingError
from asr_kd.features.augment import NO_AUGMENTATION
from asr_kd.losses import DistillSettings
from asr_kd.models.weights import load_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.checkpoint import FILES
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import Recorder, stop_after, weights_of
from tests.helpers.teachers_beside_training import TeacherBesideTraining

SELF_TAUGHT = {"consistency": {}, "dual_mode": {"delay": "minimum", "delay_frames": 1}}
REPRESENTATION = {"pairs": [[1, 1], [2, 2]], "delay_frames": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distilled")


@pytest.fixture
def supervised(make_job, utterances, folder):
    """A job with all objectives on further passes or layers, from a store."""
    place = folder / "targets"
    if not place.exists():
        teacher = LocalTeacher(train(make_job(name="teacher", settings={"epochs": 1}), folder / "teacher", Control()))
        extract(teacher, utterances[:9], TargetSettings(speeds=(0.9, 1.0, 1.1), layers=(1, 2)), place)

    def make(**changes):
        auxiliary = {"heads": 2, "ctc_weight": 0.5, "dropout": 0.1}
        objectives = {**SELF_TAUGHT, "auxiliary": auxiliary, "representation": REPRESENTATION}
        distill = DistillSettings.model_validate({"objectives": objectives})
        return make_job(distill=distill, store=Store.open(place), **changes)

    return make


@pytest.mark.parametrize("kind", ["self-distilled", "all"])
def test_interrupted_equals_uninterrupted(make_job, supervised, tmp_path, kind):
    """Masks, dropout and silence of all passes, and the parameters of the objectives, are drawn again as they were."""
    distill = DistillSettings.model_validate({"objectives": SELF_TAUGHT})
    settings = {"epochs": 2}
    job = supervised(settings=settings) if kind == "all" else make_job(distill=distill, settings=settings)
    train(job, tmp_path / "whole", Control())
    with pytest.raises(StoppedEarly):
        train(job, tmp_path / "pieces", Control(should_stop=stop_after(3)))
    newest = sorted((tmp_path / "pieces" / "checkpoints").glob("step-*"))[-1]
    assert any(name.startswith("objective.") for name in load_file(newest / FILES[0])) == (kind == "all")
    torch.rand(100)
    train(job, tmp_path / "pieces", Control())
    assert weights_of(tmp_path / "pieces") == weights_of(tmp_path / "whole")
    curves = [(tmp_path / name / "curve.jsonl").read_text() for name in ("whole", "pieces")]
    assert curves[0] == curves[1]


def test_nothing_of_an_objective_is_in_the_model(make_job, supervised, tmp_path):
    settings = {"epochs": 1}
    taught = train(supervised(settings=settings), tmp_path / "taught", Control())
    plain = train(make_job(settings=settings), tmp_path / "plain", Control())
    tensors = [load_file(model / "model.safetensors") for model in (taught, plain)]
    shapes = [{name: tensor.shape for name, tensor in part.items()} for part in tensors]
    assert shapes[0] == shapes[1]
    assert load_model(taught).card["parameters"] == load_model(plain).card["parameters"]
    assert not any(tensors[0][name].equal(tensors[1][name]) for name in ("output.weight", "layers.0.norm.weight"))


def test_further_passes_fit_into_memory_in_pieces(make_job, tmp_path):
    """A batch in pieces has the gradient of the whole, in all passes; dropout would differ, and is off."""
    objectives = {**SELF_TAUGHT, "auxiliary": {"heads": 2, "ctc_weight": 0.5, "dropout": 0.0}}
    objectives |= {"representation": REPRESENTATION}
    distill = DistillSettings.model_validate({"targets": "dense", "objectives": objectives})
    weights = []
    for most in (9, 2):
        teacher = TeacherBesideTraining(lambda lens, most=most: "memory" if len(lens) > most else None)
        quiet = {"augmentation": NO_AUGMENTATION, "random_chunk_offset": False, "epochs": 1}
        job = make_job(distill=distill, dense_teacher=teacher, settings=quiet, model={"dropout": 0.0})
        recorder = Recorder()
        weights.append(load_model(train(job, tmp_path / str(most), Control(progress=recorder))).model.output.weight)
        assert any("computed in 2 pieces" in line for line in recorder.lines) == (most == 2)
    torch.testing.assert_close(*weights, atol=1e-4, rtol=0)


def test_a_second_view_is_another_one_and_a_full_context_pass_sees_more(make_job, tmp_path):
    """By the first step's terms: KL between two views of the audio, and between the student's two contexts."""
    alone = {name: {**settings, "ctc_weight": 0.0} for name, settings in SELF_TAUGHT.items()}  # KL alone
    distill = DistillSettings.model_validate({"objectives": alone})

    def terms(name: str, **changes) -> dict[str, float]:
        train(make_job(distill=distill, **changes), tmp_path / name, Control())
        events = EventAccumulator(str(tmp_path / name / "tensorboard")).Reload()
        return {term: events.Scalars(f"step/{term}")[0].value for term in SELF_TAUGHT}

    quiet = {"augmentation": NO_AUGMENTATION, "random_chunk_offset": False, "epochs": 1}
    same = terms("quiet", settings=quiet, model={"dropout": 0.0}, seed=5)  # with 3 some frames are zero
    assert same["consistency"] == pytest.approx(0.0, abs=1e-6)  # nothing is random here
    assert same["dual_mode"] > 1e-3
    assert terms("masked", settings={"epochs": 1}, seed=5)["consistency"] > 1e-3


def test_bf16_trains(supervised, tmp_path):
    model = train(supervised(settings={"epochs": 1, "precision": "bf16"}), tmp_path / "run", Control())
    assert all(parameter.isfinite().all() for parameter in load_model(model).model.parameters())


def test_layers_teach_from_the_store_as_they_do_on_the_fly(make_job, supervised, folder, tmp_path):
    """The same curve within what 8 bits change; nothing is random here but the plan."""
    quiet = {"augmentation": NO_AUGMENTATION, "random_chunk_offset": False, "epochs": 2}
    given = {"targets": "dense", "objectives": {"representation": REPRESENTATION}}
    settings = {"settings": quiet, "model": {"dropout": 0.0}}
    teacher = load_model(folder / "teacher" / "model").model
    losses = []
    for source in ("dense", "stored"):
        distill = DistillSettings.model_validate({**given, "targets": source})
        taught = {"dense_teacher": teacher} if source == "dense" else {"store": Store.open(folder / "targets")}
        train(make_job(distill=distill, **taught, **settings), tmp_path / source, Control())
        rows = (tmp_path / source / "curve.jsonl").read_text().splitlines()
        losses.append([json.loads(row)["train_loss"] for row in rows])
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    distill = DistillSettings.model_validate({"objectives": {"representation": {"pairs": [[1, 3]]}}})
    with pytest.raises(TrainingError, match="teacher's layer must lie from 1 to 2"):
        train(make_job(distill=distill, store=Store.open(folder / "targets")), tmp_path / "none", Control())
