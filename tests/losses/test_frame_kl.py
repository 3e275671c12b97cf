"""Frame KL: known answers, brute force, selection, delay, extremes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.errors import TrainingError
from asr_kd.losses.base import StudentOutput, Supervision
from asr_kd.losses.frame_kl import FrameKl, select_frames
from asr_kd.posteriors import DensePosteriors, SoftTargets, keep_nucleus

BLANK = 0


def random_log_probs(seed: int, *shape: int, sharpness: float = 2.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharpness).log_softmax(-1)


def one_hot_targets(tokens: list[int], vocab_size: int = 4, share: float = 0.9) -> SoftTargets:
    """One utterance: `share` on the named token of each frame, the rest spread evenly."""
    probs = torch.full((1, len(tokens), vocab_size), (1 - share) / (vocab_size - 1))
    probs[0, range(len(tokens)), tokens] = share
    return keep_nucleus(probs, 0.0, vocab_size)._replace(lens=torch.tensor([len(tokens)]))


def loss_of(term: FrameKl, log_probs: torch.Tensor, lens: list[int], targets) -> torch.Tensor:
    return term(StudentOutput(log_probs, torch.tensor(lens)), Supervision(targets=targets))


def brute_force(log_probs, lens, targets, selection, dilation, delay) -> float:
    """The definition, with loops: frame by frame over the kept entries and the tail."""
    total = 0.0
    for b in range(log_probs.shape[0]):
        frames = range(int(targets.lens[b]))
        argmax = [int(targets.tokens[b, t, targets.probs[b, t].argmax()]) for t in frames]
        for t in frames:
            near = [argmax[s] for s in frames if abs(s - t) <= dilation]
            if selection == "nonblank" and all(token == BLANK for token in near):
                continue
            student = log_probs[b, t + delay].exp()
            kept = {
                int(token): float(prob)
                for token, prob in zip(targets.tokens[b, t], targets.probs[b, t], strict=True)
                if prob > 0
            }
            total += sum(q * (math.log(q) - math.log(float(student[token]))) for token, q in kept.items())
            tail, student_tail = 1 - sum(kept.values()), 1 - sum(float(student[token]) for token in kept)
            if len(kept) < log_probs.shape[-1] and tail > 0:
                total += tail * (math.log(tail) - math.log(student_tail))
    return total


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    selection=st.sampled_from(["all", "nonblank"]),
    dilation=st.integers(0, 2),
    delay=st.integers(0, 3),
)
def test_equals_the_definition_computed_frame_by_frame(seed, selection, dilation, delay):
    teacher = random_log_probs(seed, 3, 6, 5)
    targets = keep_nucleus(teacher.exp(), 0.05, 3)._replace(lens=torch.tensor([6, 2, 4]))
    student = random_log_probs(seed + 1, 3, 6 + delay, 5)
    lens = [6 + delay, 4 + delay, 4 + delay]
    loss = loss_of(FrameKl(BLANK, selection, dilation, delay), student, lens, targets)
    assert float(loss) == pytest.approx(brute_force(student, lens, targets, selection, dilation, delay), abs=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_identical_dense_distributions_cost_nothing(temperature):
    log_probs = random_log_probs(0, 2, 5, 7)
    targets = DensePosteriors(log_probs, torch.tensor([5, 3]))
    loss = loss_of(FrameKl(BLANK, "all", temperature=temperature), log_probs, [5, 3], targets)
    assert float(loss) == pytest.approx(0.0, abs=1e-5)


def test_dense_and_fully_kept_targets_cost_the_same():
    teacher, student = random_log_probs(1, 2, 5, 7), random_log_probs(2, 2, 5, 7)
    lens = torch.tensor([5, 3])
    dense = loss_of(FrameKl(BLANK, "nonblank", 1), student, [5, 3], DensePosteriors(teacher, lens))
    sparse = loss_of(
        FrameKl(BLANK, "nonblank", 1), student, [5, 3], keep_nucleus(teacher.exp(), 0, 7)._replace(lens=lens)
    )
    torch.testing.assert_close(dense, sparse)


def test_high_temperature_tends_to_half_the_variance_of_the_logit_difference():
    """lim T→∞ of T²·KL is the logit-matching objective of Hinton 2015."""
    teacher, student = random_log_probs(3, 1, 1, 6), random_log_probs(4, 1, 1, 6)
    loss = loss_of(FrameKl(BLANK, "all", temperature=500.0), student, [1], DensePosteriors(teacher, torch.tensor([1])))
    assert float(loss) == pytest.approx(float((teacher - student).var(unbiased=False)) / 2, rel=0.02)


def test_stored_targets_refuse_a_temperature():
    with pytest.raises(TrainingError, match="temperature 2 with stored"):
        loss_of(FrameKl(BLANK, "all", temperature=2.0), random_log_probs(0, 1, 2, 4), [2], one_hot_targets([0, 1]))


@pytest.mark.parametrize(
    ("selection", "dilation", "expected"),
    [
        ("all", 0, [1, 1, 1, 1, 1, 1, 1, 0]),
        ("nonblank", 0, [0, 0, 1, 0, 0, 0, 1, 0]),
        ("nonblank", 1, [0, 1, 1, 1, 0, 1, 1, 0]),
        ("nonblank", 2, [1, 1, 1, 1, 1, 1, 1, 0]),
    ],
)
def test_selection_has_the_known_mask_and_never_reaches_padding(selection, dilation, expected):
    argmax = torch.tensor([[0, 0, 3, 0, 0, 0, 1, 2]])  # the last frame is padding
    mask = select_frames(argmax, torch.tensor([7]), BLANK, selection, dilation)
    assert mask.int().tolist() == [expected]


def test_a_student_that_says_the_same_later_costs_nothing_at_that_delay_only():
    tokens = [0, 0, 2, 0, 1, 0, 0, 3]
    targets = one_hot_targets(tokens)
    delayed = torch.full((1, 10, 4), 0.1 / 3)
    delayed[0, range(2, 10), tokens] = 0.9
    delayed[0, :2, 0] = 0.9
    losses = [float(loss_of(FrameKl(BLANK, "nonblank", 1, delay), delayed.log(), [10], targets)) for delay in range(3)]
    assert losses[2] == pytest.approx(0.0, abs=1e-4)
    assert min(losses[:2]) > 1.0


def test_frames_beyond_the_targets_and_before_the_delay_get_no_gradient():
    log_probs = random_log_probs(5, 1, 9, 4).requires_grad_()
    loss_of(FrameKl(BLANK, "all", delay_frames=2), log_probs, [9], one_hot_targets([1, 0, 2])).backward()
    moved = log_probs.grad[0].abs().sum(-1) > 0
    assert moved.tolist() == [False, False, True, True, True, False, False, False, False]


def test_padding_changes_nothing():
    teacher, student = random_log_probs(6, 2, 6, 5), random_log_probs(7, 2, 8, 5)
    targets = keep_nucleus(teacher.exp(), 0.02, 4)._replace(lens=torch.tensor([4, 6]))
    term = FrameKl(BLANK, "nonblank", 1, delay_frames=1)
    both = loss_of(term, student, [5, 7], targets)
    alone = [
        loss_of(
            term,
            student[b : b + 1, : length + 1],
            [length + 1],
            SoftTargets(targets.tokens[b : b + 1, :length], targets.probs[b : b + 1, :length], targets.lens[b : b + 1]),
        )
        for b, length in enumerate([4, 6])
    ]
    torch.testing.assert_close(both, alone[0] + alone[1])


def test_too_short_a_student_is_refused_and_named_never_cropped():
    targets = SoftTargets(torch.ones(2, 4, 1, dtype=torch.int64), torch.ones(2, 4, 1), torch.tensor([2, 4]))
    with pytest.raises(TrainingError, match="item 1 of the batch has 5 student frames"):
        loss_of(FrameKl(BLANK, "all", delay_frames=2), random_log_probs(0, 2, 8, 4), [6, 5], targets)
    with pytest.raises(TrainingError, match="at least 6 student frames"):
        loss_of(FrameKl(BLANK, "all", delay_frames=2), random_log_probs(0, 2, 5, 4), [6, 6], targets)
    with pytest.raises(TrainingError, match="1 utterances"):
        loss_of(FrameKl(BLANK, "all"), random_log_probs(0, 1, 5, 4), [5], targets)


def test_another_vocabulary_size_is_refused():
    with pytest.raises(TrainingError, match="5 symbols, the student 4"):
        loss_of(
            FrameKl(BLANK, "all"),
            random_log_probs(0, 1, 3, 4),
            [3],
            DensePosteriors(random_log_probs(0, 1, 3, 5), torch.tensor([3])),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("logit", [60.0, 500.0])
def test_certain_students_against_certain_teachers_stay_finite(dtype, logit):
    logits = torch.tensor([[[logit, -logit, -logit], [-logit, logit, -logit]]], dtype=dtype, requires_grad=True)
    probs = torch.tensor([[[1.0, 0.0], [0.99, 0.0]]])
    targets = SoftTargets(torch.tensor([[[1, 0], [1, 0]]]), probs, torch.tensor([2]))
    loss = loss_of(FrameKl(BLANK, "all"), logits.log_softmax(-1), [2], targets)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, 0, 1] < 0).item(), "the student must be pulled to the teacher's token"
    # The second frame's teacher has 1 % in the tail and a student without any: it must be asked for some.
    assert logits.grad[0, 1].float()[[0, 2]].sum() < -1e-3


def test_a_student_with_a_masked_symbol_stays_finite():
    logits = random_log_probs(8, 1, 3, 4).clone()
    logits[..., 3] = -math.inf
    logits.requires_grad_()
    loss = loss_of(FrameKl(BLANK, "all"), logits.log_softmax(-1), [3], one_hot_targets([0, 1, 2], share=0.97))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


def test_bf16_input_is_renormalised_so_that_equal_stays_zero():
    teacher = random_log_probs(9, 1, 50, 12, sharpness=4.0).bfloat16()
    targets = keep_nucleus(teacher.float().softmax(-1), 0.01, 8)._replace(lens=torch.tensor([50]))
    assert float(loss_of(FrameKl(BLANK, "all"), teacher, [50], targets)) == pytest.approx(0.0, abs=1e-4)


def test_an_empty_batch_of_targets_costs_nothing():
    targets = SoftTargets(torch.zeros(1, 0, 1, dtype=torch.int64), torch.zeros(1, 0, 1), torch.tensor([0]))
    assert float(loss_of(FrameKl(BLANK, "nonblank", 1), random_log_probs(0, 1, 2, 4), [2], targets)) == 0.0
