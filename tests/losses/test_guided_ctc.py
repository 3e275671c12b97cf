"""Guided CTC: known answers, the definition, delay, padding, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, StudentOutput, Supervision
from asr_kd.losses.ctc import GuidedCtc
from asr_kd.posteriors import DensePosteriors, SoftTargets, keep_nucleus

BLANK = 0


def random_log_probs(seed: int, *shape: int) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).log_softmax(-1)


def loss_of(delay: int, log_probs: torch.Tensor, lens: list[int], targets) -> torch.Tensor:
    return GuidedCtc(BLANK, delay)(StudentOutput(log_probs, torch.tensor(lens)), Supervision(targets=targets))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), delay=st.integers(0, 2), dense=st.booleans())
def test_equals_the_definition_and_a_sum_over_the_batch(seed, delay, dense):
    teacher, student = random_log_probs(seed, 2, 6, 4), random_log_probs(seed + 1, 2, 9, 4)
    lens = [6, 3]
    posteriors = keep_nucleus(teacher.exp(), 0.1, 2)
    targets = DensePosteriors(teacher, torch.tensor(lens)) if dense else posteriors._replace(lens=torch.tensor(lens))
    expected = 0.0
    for row, length in enumerate(lens):
        for frame in range(length):
            token = int(teacher[row, frame].argmax())
            if token != BLANK:
                expected -= float(student[row, frame + delay, token])
    loss = loss_of(delay, student, [length + delay for length in lens], targets)
    assert float(loss) == pytest.approx(expected, abs=1e-4)


def test_known_answer_and_only_spikes_get_a_gradient():
    probs = torch.tensor([[[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.2, 0.2]]])
    student = torch.tensor([[[0.2, 0.3, 0.5], [0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]]).log().requires_grad_()
    loss = loss_of(0, student, [3], DensePosteriors(probs.log(), torch.tensor([3])))
    assert float(loss) == pytest.approx(-torch.tensor(0.25).log())
    loss.backward()
    assert (student.grad[0].abs().sum(-1) > 0).tolist() == [False, True, False]


def test_a_student_certain_of_the_spikes_costs_nothing():
    tokens = [0, 2, 0, 1, 1]
    student = torch.full((1, 7, 3), -100.0)
    student[0, range(7), [0, 0, *tokens]] = 100.0
    targets = SoftTargets(torch.tensor(tokens).view(1, 5, 1), torch.ones(1, 5, 1), torch.tensor([5]))
    assert float(loss_of(2, student, [7], targets)) == pytest.approx(0.0, abs=1e-6)
    assert float(loss_of(1, student, [7], targets)) > 100.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_student_certain_of_something_else_stays_finite(dtype):
    logits = torch.tensor([[[500.0, -500.0, -500.0]]], dtype=dtype, requires_grad=True)
    targets = SoftTargets(torch.tensor([[[1]]]), torch.ones(1, 1, 1), torch.tensor([1]))
    loss = loss_of(0, logits.log_softmax(-1), [1], targets)
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert logits.grad[0, 0, 1] < 0


def test_a_teacher_that_says_nothing_costs_nothing():
    blanks = SoftTargets(torch.zeros(1, 3, 1).long(), torch.ones(1, 3, 1), torch.tensor([3]))
    assert float(loss_of(0, random_log_probs(0, 1, 3, 4), [3], blanks)) == 0.0
    none = SoftTargets(torch.zeros(1, 0, 1).long(), torch.ones(1, 0, 1), torch.tensor([0]))
    assert float(loss_of(1, random_log_probs(0, 1, 3, 4), [3], none)) == 0.0


def test_too_short_a_student_and_another_vocabulary_are_refused():
    targets = DensePosteriors(random_log_probs(0, 1, 3, 5), torch.tensor([3]))
    with pytest.raises(TrainingError, match="a delay of 1"):
        loss_of(1, random_log_probs(0, 1, 3, 5), [3], targets)
    with pytest.raises(TrainingError, match="5 symbols, the student 4"):
        loss_of(0, random_log_probs(0, 1, 3, 4), [3], targets)


def test_alone_it_would_never_train_blanks():
    with pytest.raises(RecipeError, match="never train blanks"):
        parse_settings(DistillSettings, {"kd_weight": 1.0, "objectives": {"guided_ctc": {}}}, "recipe.yaml")
    given = {"kd_weight": 1.0, "objectives": {"guided_ctc": {}, "frame_kl": {}}}
    assert set(parse_settings(DistillSettings, given, "recipe.yaml").terms) == {"guided_ctc", "frame_kl"}
