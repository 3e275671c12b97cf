"""λ that moves with training, and utterances without a transcript, for which it is 1."""

import pytest
import torch

from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.losses.base import Hypotheses, hypotheses_of
from asr_kd.losses.ctc import ctc_loss
from asr_kd.losses.frame_kl import FrameKl
from asr_kd.posteriors import DensePosteriors, SoftTargets, keep_nucleus
from asr_kd.posteriors.types import map_tensors

LENS = torch.tensor([6, 4, 5])
REFERENCES = References(torch.tensor([[1, 2], [0, 0], [3, 1]]), torch.tensor([2, 0, 2]))
SHAPE = Shape(0, vocab_size=4, width=4, layers=2)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def student() -> StudentOutput:
    return StudentOutput(noise(0, 3, 6, 4).log_softmax(-1).requires_grad_(), LENS, {2: noise(2, 3, 6, 4)})


@pytest.fixture
def targets() -> SoftTargets:
    return keep_nucleus(noise(1, 3, 6, 4).softmax(-1), 0.01, 3)._replace(lens=LENS)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [0.8, 0.6, 0.4, 0.2, 0.0]), ("cosine", [0.8, 0.8 - 0.8 * 0.1464466, 0.4, 0.8 * 0.1464466, 0.0])],
)
def test_lambda_moves_from_the_first_step_to_the_last(schedule, expected):
    settings = DistillSettings(kd_weight=0.8, kd_weight_final=0.0, kd_schedule=schedule)
    objective = Objective.from_settings(settings, SHAPE)
    found = []
    for step in range(5):
        objective.weigh(step, 5)
        assert objective.weights["ctc"] == pytest.approx(1 - objective.weights["frame_kl"])
        found.append(objective.weights["frame_kl"])
    assert found == pytest.approx(expected, abs=1e-6)
    objective.weigh(2, 5)  # a resumed run
    assert objective.weights["frame_kl"] == pytest.approx(expected[2])
    objective.weigh(9, 5)  # epochs may have a batch more than the first
    assert objective.weights["frame_kl"] == pytest.approx(0.0)


def test_a_constant_lambda_stays(student, targets):
    objective = Objective.from_settings(DistillSettings(kd_weight=0.3), SHAPE)
    before = dict(objective.weights)
    objective.weigh(3, 5)
    assert objective.weights == before


def test_lambda_may_begin_or_end_at_its_extremes(student, targets):
    """What is needed at any step is needed."""
    rising = DistillSettings(kd_weight=0.0, kd_weight_final=1.0, kd_schedule="linear", selection="all")
    assert (rising.needs_targets, rising.needs_references) == (True, True)
    objective = Objective.from_settings(rising, SHAPE)
    losses = []
    for step in (0, 1):
        objective.weigh(step, 2)
        losses.append(objective(student, Supervision(REFERENCES, targets), 15))
    torch.testing.assert_close(losses[0].total, losses[0].parts["ctc"])
    torch.testing.assert_close(losses[1].total, losses[1].parts["frame_kl"])
    assert not DistillSettings(kd_weight=1.0).needs_references


def test_half_a_schedule_is_refused():
    with pytest.raises(ValueError, match="set both, or neither"):
        DistillSettings(kd_schedule="linear")
    with pytest.raises(ValueError, match="set both, or neither"):
        DistillSettings(kd_weight_final=0.1)


def test_utterances_without_a_transcript_have_the_teacher_alone(student, targets):
    settings = DistillSettings(kd_weight=0.25, selection="all", untranscribed=True)
    objective = Objective.from_settings(settings, SHAPE)
    terms = objective(student, Supervision(REFERENCES, targets, untranscribed=(1,)), 15)
    kl = FrameKl(0, "all", 0, 0)
    rows = [0, 2]
    said = student.log_probs
    ctc = ctc_loss(said[rows], LENS[rows], References(*(part[rows] for part in REFERENCES)), 0)

    def kl_of(rows):
        taught = map_tensors(targets, lambda part: part[rows])
        return kl(StudentOutput(said[rows], LENS[rows]), Supervision(None, taught))

    torch.testing.assert_close(terms.total, (0.75 * ctc + 0.25 * kl_of(rows) + kl_of([1])) / 15)
    torch.testing.assert_close(terms.parts["ctc"], ctc / 15)
    torch.testing.assert_close(terms.parts["frame_kl"], kl_of([0, 1, 2]) / 15)


def test_a_batch_without_any_transcript_is_a_batch_of_lambda_one(student, targets):
    objective = Objective.from_settings(DistillSettings(kd_weight=0.25, untranscribed=True), SHAPE)
    alone = Objective.from_settings(DistillSettings(kd_weight=1.0), SHAPE)
    terms = objective(student, Supervision(REFERENCES, targets, untranscribed=(0, 1, 2)), 15)
    torch.testing.assert_close(terms.total, alone(student, Supervision(REFERENCES, targets), 15).total)
    assert float(terms.parts["ctc"]) == 0.0


@pytest.mark.parametrize("dense", [False, True])
def test_every_part_of_an_objective_goes_by_rows(student, targets, dense):
    """Rows are taken of layers, passes, hypotheses and arrays alike; CTC inside other objectives is left out."""
    objectives = {
        "frame_kl": {},
        "pooled_kl": {},
        "sequence": {},
        "auxiliary": {"ctc_weight": 0.5, "heads": 2, "dropout": 0.0},
        "consistency": {},
    }
    settings = DistillSettings.model_validate({"objectives": objectives, "untranscribed": True})
    torch.manual_seed(0)
    objective = Objective.from_settings(settings, SHAPE)
    second = StudentOutput(noise(5, 3, 6, 4).log_softmax(-1), LENS)
    student = student._replace(passes={"second_view": second})
    one = torch.tensor([1, 1, 1])
    hypotheses = Hypotheses(torch.tensor([[1], [2], [3]]), one, torch.tensor([0, 1, 2]), one.float())
    pooled = torch.zeros(3, 2, 1, 2)
    pooled[:, :, 0, 1] = 0.9
    taught = DensePosteriors(noise(6, 3, 6, 4).log_softmax(-1), LENS) if dense else targets
    known = Supervision(REFERENCES, taught, hypotheses, {}, {"pooled": pooled})
    terms = objective(student, known._replace(untranscribed=(1,)), 15)
    terms.total.backward()
    assert terms.total.isfinite()
    assert student.log_probs.grad.isfinite().all()
    whole = objective(student, known, 15).parts
    for name in ("frame_kl", "sequence"):
        torch.testing.assert_close(terms.parts[name], whole[name])
    assert float(terms.parts["ctc"]) < float(whole["ctc"])  # which asks utterance 1 for blanks
    assert float(terms.parts["auxiliary"]) < float(whole["auxiliary"])


def test_hypotheses_of_rows_are_counted_anew():
    flat = Hypotheses(torch.tensor([[1], [2], [3]]), torch.ones(3), torch.tensor([0, 2, 2]), torch.ones(3))
    assert hypotheses_of(flat, [1, 2], 3).rows.tolist() == [1, 1]
    assert hypotheses_of(flat, [1, 2], 3).tokens.tolist() == [[2], [3]]


def test_untranscribed_needs_something_to_learn_from():
    for settings in ({"kd_weight": 0.0}, {"objectives": {"pooled_kl": {}}}):
        with pytest.raises(ValueError, match="untranscribed"):
            DistillSettings.model_validate({**settings, "untranscribed": True})
