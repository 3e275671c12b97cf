"""Learning rates of a model's parts: frozen epochs, shares, and what Whisper brought."""

import pytest
import torch

from asr_kd.models.settings import CausalHead
from asr_kd.models.weights import load_model
from asr_kd.training.checkpoint import best_epochs
from asr_kd.training.settings import TrainSettings
from asr_kd.training.step import parameter_groups, rate_share, start_epoch
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import assert_resumes_exactly
from tests.helpers.tiny_models import tiny_model
from tests.helpers.whisper_students import whisper_student


def test_every_parameter_is_in_one_group_and_matrices_decay():
    model = whisper_student()
    groups = parameter_groups(model, torch.nn.Linear(2, 2), 0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) + 2
    assert all((group["weight_decay"] == 0.5) == (each.ndim > 1) for group in groups for each in group["params"])
    parts = {name: model.part_of(name) for name, _ in model.named_parameters()}
    assert {name for name, part in parts.items() if part == "output"} == {"output.weight", "output.bias"}
    new = {name for name, part in parts.items() if part == "layers"}
    assert {"stem.map.weight", "stem.join.bias", "layers.0.convolution.weight", "layers.1.convolution_norm.bias"} <= new
    assert {"stem.first.weight", "layers.0.expand.weight", "norm.weight"} <= parts.keys() - new


@pytest.mark.parametrize(
    ("epoch", "expected"), [(1, {"output": 1.0, "layers": 0.0, "adopted": 0.0}), (2, {"layers": 0.5, "adopted": 0.1})]
)
def test_shares_follow_the_schedule(epoch, expected):
    model, settings = whisper_student(), TrainSettings(layers_rate=0.5, adopted_rate=0.2, frozen_epochs=1)
    start_epoch(model, epoch, settings)
    for part, share in expected.items():
        assert rate_share(model, part, settings) == pytest.approx(share)
    assert rate_share(model, "", settings) == 1.0


def test_a_frozen_model_has_gradients_of_its_output_layer_alone_and_the_same_output():
    model, features, lens = tiny_model().train(), torch.randn(2, 80, 80), torch.tensor([80, 61])
    model.eval()
    expected = model(features, lens, inner_layers=(1,))
    model.frozen = True
    found = model(features, lens, inner_layers=(1,))
    assert found.log_probs.equal(expected.log_probs)
    (found.log_probs[..., 1].sum() + found.inner[0][..., 1].sum()).backward()
    assert {name for name, each in model.named_parameters() if each.grad is not None} == {
        "output.weight",
        "output.bias",
    }


def test_a_frozen_whisper_has_gradients_of_its_head():
    model = whisper_student(head=CausalHead(blocks=1, width=16, kernel=3)).train()
    model.frozen = True
    model(torch.randn(2, 80, 80), torch.tensor([80, 61])).log_probs[0, :, 1].sum().backward()
    with_gradient = {name for name, each in model.named_parameters() if each.grad is not None}
    head = {name for name, _ in model.named_parameters() if model.part_of(name) == "output"}
    assert head == {name for name in with_gradient if ".encoder_norm." not in name}
    assert {"layers.2.convolution.weight", "layers.2.norm.bias", "norm.weight", "output.bias"} <= head
    assert model.part_of("layers.2.encoder_norm.weight") == "adopted"


def test_frozen_epochs_change_the_output_layer_alone(make_job, tmp_path):
    def moved(**settings) -> set[str]:
        job = make_job(settings={"epochs": 1, "average_best": 1, **settings})
        place = tmp_path / "-".join(map(str, settings.values()))
        trained = load_model(train(job, place, Control())).model.state_dict()
        # Another run of no use at all: its rate is so small that nothing moves.
        still = make_job(settings={"epochs": 1, "average_best": 1, "learning_rate": 1e-12, "weight_decay": 0.0})
        begun = load_model(train(still, tmp_path / "still", Control())).model.state_dict()
        return {name for name in trained if not torch.allclose(trained[name], begun[name], atol=1e-7)}

    assert {name.split(".")[0] for name in moved(frozen_epochs=1)} == {"output"}
    assert {name.split(".")[0] for name in moved(layers_rate=0.0)} == {"output"}
    assert "layers" in {name.split(".")[0] for name in moved(frozen_epochs=0)}


def test_a_run_resumed_in_a_frozen_epoch_is_the_uninterrupted_one(make_job, tmp_path):
    job = make_job(settings={"frozen_epochs": 2})
    assert_resumes_exactly(job, tmp_path, 5)


def test_the_best_epochs_of_a_run_without_dev_scores_are_the_last():
    curve = [{"epoch": epoch, "train_loss": 1.0, **({"kept": True} if epoch != 2 else {})} for epoch in (1, 2, 3, 4)]
    assert best_epochs(curve, 2) == [4, 3]
