"""Delay-tolerant KL: brute force, a shifted teacher's delay found exactly, bounds, gradients, extremes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, Shape, StudentOutput, Supervision
from asr_kd.losses.frame_kl import DelayedKl, DelayedKlSettings, FrameKl, delayed_divergences
from asr_kd.posteriors import DensePosteriors, SoftTargets, keep_nucleus

BLANK = 0
MODES = ["minimum", "soft_minimum", "utterance", "learned"]


def random_log_probs(seed: int, *shape: int, sharpness: float = 2.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharpness).log_softmax(-1)


def stored(log_probs: torch.Tensor, lens: list[int], epsilon: float = 0.05, count: int = 3) -> SoftTargets:
    return keep_nucleus(log_probs.exp(), epsilon, count)._replace(lens=torch.tensor(lens))


def one(targets: SoftTargets, row: int, length: int) -> SoftTargets:
    return SoftTargets(
        targets.tokens[row : row + 1, :length], targets.probs[row : row + 1, :length], targets.lens[row : row + 1]
    )


def loss_of(term: torch.nn.Module, log_probs: torch.Tensor, lens: list[int], targets) -> torch.Tensor:
    return term(StudentOutput(log_probs, torch.tensor(lens)), Supervision(targets=targets))


def single(targets, log_probs, row: int, frame: int, delay: int) -> float:
    """KL of one frame at one delay, by the term with a fixed delay and everything else cut away."""
    cut = SoftTargets(
        targets.tokens[row : row + 1, frame : frame + 1],
        targets.probs[row : row + 1, frame : frame + 1],
        torch.tensor([1]),
    )
    student = log_probs[row : row + 1, frame + delay : frame + delay + 1]
    return float(loss_of(FrameKl(BLANK, "all"), student, [1], cut))


def brute_force(mode, delays, sharpness, log_probs, targets, selection) -> float:
    """The definition, with loops over utterances, frames and delays."""
    total = 0.0
    for row, length in enumerate(targets.lens.tolist()):
        argmax = targets.argmax()[row]
        taught = [frame for frame in range(length) if selection == "all" or argmax[frame] != BLANK]
        table = [[single(targets, log_probs, row, frame, delay) for delay in delays] for frame in taught]
        if mode == "utterance" and table:
            total += min(sum(column) for column in zip(*table, strict=True))
        for costs in table if mode != "utterance" else []:
            if mode == "minimum":
                total += min(costs)
            elif mode == "learned":  # π is flat before training
                total -= math.log(sum(math.exp(-cost) for cost in costs) / len(costs))
            else:
                weights = [math.exp(-sharpness * cost) for cost in costs]
                total += sum(w * cost for w, cost in zip(weights, costs, strict=True)) / sum(weights)
    return total


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    mode=st.sampled_from(MODES),
    selection=st.sampled_from(["all", "nonblank"]),
    least=st.integers(0, 2),
    more=st.integers(0, 2),
    sharpness=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_equals_the_definition(seed, mode, selection, least, more, sharpness):
    most = least + more
    targets = stored(random_log_probs(seed, 2, 5, 5), [5, 3])
    student = random_log_probs(seed + 1, 2, 5 + most, 5)
    term = DelayedKl(BLANK, mode, range(least, most + 1), sharpness, selection, dilation=0)
    loss = loss_of(term, student, [5 + most, 3 + most], targets)
    expected = brute_force(mode, range(least, most + 1), sharpness, student, targets, selection)
    assert float(loss) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("delay", [0, 2])
def test_one_delay_alone_is_the_fixed_delay(mode, delay):
    targets, student = stored(random_log_probs(0, 2, 6, 5), [6, 4]), random_log_probs(1, 2, 8, 5)
    loss = loss_of(DelayedKl(BLANK, mode, range(delay, delay + 1)), student, [8, 6], targets)
    torch.testing.assert_close(loss, loss_of(FrameKl(BLANK, "nonblank", 1, delay), student, [8, 6], targets))


@pytest.mark.parametrize("mode", ["minimum", "utterance"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_shifted_teacher_costs_nothing_and_its_delay_is_found_exactly(mode, dense):
    """Each utterance is late by another number of frames; the gradient shows which frames were chosen."""
    teacher = random_log_probs(2, 4, 5, 6)
    student = random_log_probs(3, 4, 8, 6)
    for row, delay in enumerate(range(4)):
        student[row, delay : delay + 5] = teacher[row]
    lens = torch.tensor([5] * 4)
    targets = DensePosteriors(teacher, lens) if dense else stored(teacher, [5] * 4, 0.0, 6)
    leaf = (student + 0.01 * random_log_probs(4, 4, 8, 6)).requires_grad_()
    term = DelayedKl(BLANK, mode, range(4), selection="all")
    assert float(loss_of(term, student, [8] * 4, targets)) == pytest.approx(0.0, abs=1e-4)
    loss_of(term, leaf, [8] * 4, targets).backward()
    moved = leaf.grad.abs().sum(-1) > 0
    expected = [[delay <= frame < delay + 5 for frame in range(8)] for delay in range(4)]
    assert moved.tolist() == expected


def test_identical_distributions_cost_nothing_where_no_delay_is_better():
    log_probs = random_log_probs(5, 2, 7, 5)
    targets = DensePosteriors(log_probs[:, :5], torch.tensor([5, 3]))
    for mode in ("minimum", "utterance"):
        assert float(loss_of(DelayedKl(BLANK, mode, range(3)), log_probs, [7, 5], targets)) == pytest.approx(
            0, abs=1e-4
        )
    constant = log_probs[:, :1].expand(2, 7, 5)  # all delays fit
    targets = DensePosteriors(constant[:, :5], torch.tensor([5, 3]))
    for mode in MODES:
        term = DelayedKl(BLANK, mode, range(3), selection="all")
        assert float(loss_of(term, constant, [7, 5], targets)) == pytest.approx(0, abs=1e-4)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_freer_choices_cost_less_and_nothing_is_negative(seed):
    targets, student = stored(random_log_probs(seed, 2, 6, 5), [6, 4]), random_log_probs(seed + 1, 2, 8, 5)
    cost = {mode: float(loss_of(DelayedKl(BLANK, mode, range(3), 1.0), student, [8, 6], targets)) for mode in MODES}
    fixed = [float(loss_of(FrameKl(BLANK, "nonblank", 1, delay), student, [8, 6], targets)) for delay in range(3)]
    assert 0.0 <= cost["minimum"] <= cost["utterance"] + 1e-4
    assert cost["utterance"] <= min(fixed) + 1e-4
    assert cost["minimum"] <= cost["soft_minimum"] + 1e-4 <= sum(fixed) / 3 + 2e-4
    assert 0.0 <= cost["learned"] <= sum(fixed) / 3 + 1e-4


def test_a_sharp_soft_minimum_is_the_minimum():
    targets, student = stored(random_log_probs(6, 2, 6, 5), [6, 4]), random_log_probs(7, 2, 8, 5)
    soft = loss_of(DelayedKl(BLANK, "soft_minimum", range(3), 1000.0), student, [8, 6], targets)
    torch.testing.assert_close(soft, loss_of(DelayedKl(BLANK, "minimum", range(3)), student, [8, 6], targets))


def test_the_learned_distribution_finds_the_delay():
    teacher = random_log_probs(8, 1, 20, 6)
    student = random_log_probs(9, 1, 22, 6)
    student[:, 1:21] = teacher
    term = DelayedKl(BLANK, "learned", range(3), selection="all")
    optimizer = torch.optim.SGD(term.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss_of(term, student, [22], DensePosteriors(teacher, torch.tensor([20]))).backward()
        optimizer.step()
    learned = term.logits.detach().softmax(0)
    assert learned.argmax() == 1
    assert learned[1] > 0.9


@pytest.mark.parametrize("mode", MODES)
def test_the_gradient_is_that_of_the_loss_with_constant_weights(mode):
    """Away from ties the chosen delays do not move, and finite differences of the exact forms agree."""
    targets = stored(random_log_probs(10, 2, 4, 4), [4, 3])
    logits = random_log_probs(11, 2, 6, 4).requires_grad_()
    term = DelayedKl(BLANK, mode, range(3), 0.7, "all")
    loss_of(term, logits, [6, 5], targets).backward()
    step, direction = 1e-2, random_log_probs(12, 2, 6, 4)
    with torch.no_grad():
        table = [delayed_divergences(targets, logits + s * direction, term.delays) for s in (step, -step)]
        if mode == "soft_minimum":  # its weights are constants: difference the sum under those of the middle
            middle = delayed_divergences(targets, logits, term.delays)
            weights = (-0.7 * middle).softmax(0)
            ends = [(weights * each).sum(0) for each in table]
            mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
            up, down = ((each * mask).sum() for each in ends)
        else:
            up, down = (loss_of(term, logits + s * direction, [6, 5], targets) for s in (step, -step))
    assert float((logits.grad * direction).sum()) == pytest.approx(float(up - down) / (2 * step), rel=2e-2, abs=1e-2)


@pytest.mark.parametrize("mode", MODES)
def test_padding_and_batching_change_nothing(mode):
    targets, student = stored(random_log_probs(13, 2, 6, 5), [4, 6]), random_log_probs(14, 2, 12, 5)
    term = DelayedKl(BLANK, mode, range(1, 3))
    both = loss_of(term, student, [6, 8], targets)
    alone = [
        loss_of(term, student[row : row + 1, : length + 2], [length + 2], one(targets, row, length))
        for row, length in enumerate([4, 6])
    ]
    torch.testing.assert_close(both, alone[0] + alone[1])


@pytest.mark.parametrize(("mode", "dtype"), itertools.product(MODES, [torch.float32, torch.bfloat16]))
def test_certain_students_and_teachers_stay_finite(mode, dtype):
    logits = torch.full((1, 4, 3), -500.0, dtype=dtype)
    logits[0, range(4), [0, 1, 2, 0]] = 500.0
    logits.requires_grad_()
    targets = SoftTargets(
        torch.tensor([[[1, 0], [2, 0]]]), torch.tensor([[[1.0, 0.0], [0.99, 0.0]]]), torch.tensor([2])
    )
    term = DelayedKl(BLANK, mode, range(3))
    loss = loss_of(term, logits.log_softmax(-1), [4], targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in term.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_short_and_empty_utterances(mode):
    term = DelayedKl(BLANK, mode, range(3))
    one_frame = stored(random_log_probs(15, 1, 1, 4), [1], 0.0, 4)
    assert loss_of(term, random_log_probs(16, 1, 3, 4), [3], one_frame).isfinite()
    none = SoftTargets(torch.zeros(1, 0, 1, dtype=torch.int64), torch.zeros(1, 0, 1), torch.tensor([0]))
    log_probs = random_log_probs(17, 1, 3, 4).requires_grad_()
    loss = loss_of(term, log_probs, [3], none)
    loss.backward()
    assert float(loss) == 0.0


def test_a_student_without_room_for_the_largest_delay_is_refused():
    targets = stored(random_log_probs(18, 1, 4, 4), [4])
    with pytest.raises(TrainingError, match="a delay of 2"):
        loss_of(DelayedKl(BLANK, "minimum", range(3)), random_log_probs(19, 1, 5, 4), [5], targets)


def test_training_is_told_of_the_silence_and_of_the_parameters():
    given = {"kd_weight": 0.5, "objectives": {"delayed_kl": {"mode": "learned", "max_delay_frames": 3}}}
    objective = Objective.from_settings(parse_settings(DistillSettings, given, "recipe.yaml"), Shape(BLANK))
    assert objective.delay_frames == 3
    assert [tuple(parameter.shape) for parameter in objective.parameters()] == [(4,)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_delay_frames": 4}, "min_delay_frames 4 is above max_delay_frames 3"),
        ({"mode": "soft"}, "minimum"),
        ({"sharpness": -1}, "at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(DelayedKlSettings, given, "recipe.yaml")


def test_blanks_alone_are_never_left_untaught():
    given = {"kd_weight": 1.0, "objectives": {"delayed_kl": {"dilation": 0}}}
    with pytest.raises(RecipeError, match="never train blanks"):
        parse_settings(DistillSettings, given, "recipe.yaml")
