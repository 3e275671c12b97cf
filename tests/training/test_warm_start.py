"""Weights to begin from: taken over whole, or but for the head; refused when they do not fit."""

import json

import pytest
import torch

from asr_kd.errors import CheckpointError
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import CausalHead
from asr_kd.models.weights import load_model, save_model
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.settings import TrainSettings
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from asr_kd.training.warm_start import warm_start, warm_start_sha256
from tests.helpers.jobs import Recorder
from tests.helpers.tiny_models import VOCABULARY, save_tiny_model, tiny_model
from tests.helpers.whisper_students import whisper_student

OTHER = Vocabulary.characters(["XYZ"])


@pytest.fixture
def source(tmp_path):
    return save_tiny_model(tmp_path / "source", seed=5)


def test_all_weights_and_the_normalisation_are_taken_over(source):
    model = tiny_model(seed=1)
    model.set_normalisation(torch.zeros(80), torch.ones(80))
    warm_start(model, VOCABULARY, TrainSettings(init_from=source))
    for name, tensor in load_model(source).model.state_dict().items():
        assert model.state_dict()[name].equal(tensor), name


def test_full_context_weights_fit_a_chunked_model(tmp_path):
    source = save_tiny_model(tmp_path / "source", seed=5, streaming=False)
    model = tiny_model(seed=1)
    warm_start(model, VOCABULARY, TrainSettings(init_from=source))
    assert model.output.weight.equal(load_model(source).model.output.weight)


def test_without_the_head_another_vocabulary_fits(source):
    model = tiny_model(seed=1, vocabulary=OTHER)
    before = model.output.weight.clone()
    warm_start(model, OTHER, TrainSettings(init_from=source, init_head=False))
    assert model.output.weight.equal(before)
    taken = load_model(source).model.state_dict()
    rest = [name for name in taken if not name.startswith("output.")]
    assert len(rest) == len(taken) - 2
    assert all(model.state_dict()[name].equal(taken[name]) for name in rest)


def test_another_vocabulary_or_shape_is_refused_naming_both(source):
    settings = TrainSettings(init_from=source)
    theirs, ours = VOCABULARY.sha256[:12], OTHER.sha256[:12]
    with pytest.raises(
        CheckpointError, match=rf"{len(VOCABULARY)} symbols, SHA-256 {theirs}.*5 symbols, SHA-256 {ours}"
    ):
        warm_start(tiny_model(vocabulary=OTHER), OTHER, settings)
    wider = Conformer(tiny_model().settings.model_copy(update={"width": 64, "layers": 3}), len(VOCABULARY))
    with pytest.raises(CheckpointError, match=r"width 32, layers 2; expected the student's width 64, layers 3"):
        warm_start(wider, VOCABULARY, settings)


def test_several_models_give_the_mean_of_their_weights(source, tmp_path):
    other = save_tiny_model(tmp_path / "other", seed=6)
    model = tiny_model(seed=1)
    settings = TrainSettings(init_from=(source, other))
    warm_start(model, VOCABULARY, settings)
    first, second = (load_model(folder).model.state_dict() for folder in (source, other))
    assert not first["output.weight"].equal(second["output.weight"])
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, msg=name)
    assert warm_start_sha256(settings) == [
        *warm_start_sha256(TrainSettings(init_from=source)),
        *warm_start_sha256(TrainSettings(init_from=other)),
    ]


def test_each_of_several_models_must_fit(source, tmp_path):
    narrow = tmp_path / "narrow"
    shape = tiny_model().settings.model_copy(update={"layers": 1})
    save_model(narrow, Conformer(shape, len(VOCABULARY)), VOCABULARY, {})
    with pytest.raises(CheckpointError, match=r"narrow.*layers 1.*layers 2"):
        warm_start(tiny_model(), VOCABULARY, TrainSettings(init_from=(source, narrow)))
    with pytest.raises(CheckpointError, match=r"nothing.*missing"):
        warm_start_sha256(TrainSettings(init_from=(source, tmp_path / "nothing")))


def test_without_epochs_the_first_weights_are_scored_and_saved(make_job, tmp_path):
    folders = [train(make_job(settings={"epochs": 2}, seed=seed), tmp_path / str(seed), Control()) for seed in (1, 2)]
    job = make_job(settings={"epochs": 0, "init_from": tuple(folders)})
    progress = Recorder()
    mean = load_model(train(job, tmp_path / "mean", Control(progress=progress)))
    first, second = (load_model(folder).model.state_dict() for folder in folders)
    for name, tensor in mean.model.state_dict().items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, msg=name)
    (row,) = map(json.loads, (tmp_path / "mean" / "curve.jsonl").read_text().splitlines())
    assert row.keys() == {"epoch", "step", "dev_wer", "dev_loss"}
    assert (row["epoch"], row["step"], mean.card["best_dev_wer"]) == (0, 0, row["dev_wer"])
    assert any("not trained, dev WER" in line for line in progress.lines)
    train(job, tmp_path / "mean", Control())  # goes on from its checkpoint, where nothing is left to do
    assert len((tmp_path / "mean" / "curve.jsonl").read_text().splitlines()) == 1


def test_without_epochs_there_must_be_weights():
    with pytest.raises(ValueError, match="epochs: 0 leaves random weights"):
        TrainSettings(epochs=0)
    with pytest.raises(ValueError, match="at least 1 item"):
        TrainSettings(init_from=())


def test_what_is_not_there_is_named(tmp_path):
    settings = TrainSettings(init_from=tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"nothing.*init_from"):
        warm_start_sha256(settings)
    with pytest.raises(CheckpointError, match="nothing"):
        warm_start(tiny_model(), VOCABULARY, settings)
    assert warm_start_sha256(TrainSettings()) == []


def test_training_begins_there_and_the_job_says_so(make_job, tmp_path):
    first = train(make_job(settings={"epochs": 3}), tmp_path / "first", Control())
    still = {"epochs": 1, "learning_rate": 1e-9, "average_best": 1, "warmup_epochs": 0.0}
    job = make_job(settings={**still, "init_from": first})
    again = load_model(train(job, tmp_path / "again", Control())).model.state_dict()
    for name, tensor in load_model(first).model.state_dict().items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    curve = json.loads((tmp_path / "again" / "curve.jsonl").read_text().splitlines()[0])
    cold = train(make_job(settings=still), tmp_path / "cold", Control()).parent / "curve.jsonl"
    assert curve["train_loss"] < json.loads(cold.read_text().splitlines()[0])["train_loss"]
    before = warm_start_sha256(job.train)
    train(make_job(settings={"epochs": 1}), tmp_path / "other", Control())
    (first / "model.safetensors").write_bytes((tmp_path / "other" / "model" / "model.safetensors").read_bytes())
    assert warm_start_sha256(job.train) != before


def test_layers_begin_as_the_layers_that_are_named(tmp_path):
    deep = tiny_model(seed=5).settings.model_copy(update={"layers": 4})
    teacher = Conformer(deep, len(VOCABULARY))
    save_model(tmp_path / "deep", teacher, VOCABULARY, {})
    model = tiny_model(seed=1)
    warm_start(model, VOCABULARY, TrainSettings(init_from=tmp_path / "deep", init_layers=(4, 2)))
    taken, ours = teacher.state_dict(), model.state_dict()
    for name, tensor in ours.items():
        there = name.replace("layers.0.", "layers.3.") if "layers.0." in name else name
        assert tensor.equal(taken[there]), name  # the second layer is the second
    assert len([name for name in ours if name.startswith("layers.0.")]) > 10


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ((1,), r"names 1 layers; expected one for each of the model's 2"),
        ((1, 3), r"layer 3; expected layers from 1 to 2"),
    ],
)
def test_layers_that_do_not_fit_are_refused(source, layers, found):
    with pytest.raises(CheckpointError, match=found):
        warm_start(tiny_model(), VOCABULARY, TrainSettings(init_from=source, init_layers=layers))


def test_layers_of_another_width_or_of_no_model_are_refused_by_name(source):
    wider = Conformer(tiny_model().settings.model_copy(update={"width": 64, "layers": 1}), len(VOCABULARY))
    with pytest.raises(CheckpointError, match=r"width 32; expected the student's width 64"):
        warm_start(wider, VOCABULARY, TrainSettings(init_from=source, init_layers=(2,)))
    with pytest.raises(ValueError, match="init_from"):
        TrainSettings(init_layers=(1,))
    with pytest.raises(ValueError, match="from 1"):
        TrainSettings(init_from=source, init_layers=(0,))


def test_a_block_of_the_head_does_not_begin_as_a_layer_of_the_encoder(tmp_path):
    model = whisper_student(head=CausalHead(blocks=1, width=16, kernel=3))
    save_model(tmp_path / "source", model, VOCABULARY, {})
    settings = TrainSettings(init_from=tmp_path / "source", init_layers=(2, 1, 2))
    with pytest.raises(CheckpointError, match=r"has no layers\.1\.\S+; expected a layer with the parts of .* layer 3"):
        warm_start(whisper_student(head=CausalHead(blocks=1, width=16, kernel=3)), VOCABULARY, settings)


def test_dropout_of_a_head_does_not_matter(tmp_path):
    head = CausalHead(blocks=1, width=16, kernel=3, dropout=0.1)
    save_model(tmp_path / "source", whisper_student(seed=5, head=head), VOCABULARY, {})
    settings, model = (
        TrainSettings(init_from=tmp_path / "source"),
        whisper_student(head=head.model_copy(update={"dropout": 0.3})),
    )
    warm_start(model, VOCABULARY, settings)
    assert model.output.weight.equal(load_model(tmp_path / "source").model.output.weight)
    with pytest.raises(CheckpointError, match="'width': 16"):
        warm_start(whisper_student(head=head.model_copy(update={"width": 24})), VOCABULARY, settings)
