"""Occupancy-pooled KL: the definition by enumeration, zero for equals, blind to timing, stored and dense, extremes."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.losses.pooled_kl import PooledKl
from asr_kd.posteriors import DensePosteriors, SoftTargets, keep_nucleus
from asr_kd.posteriors.measures import POOLED, occupancy, pooled_log_probs

BLANK = 0


def random_log_probs(seed: int, *shape: int, sharpness: float = 2.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharpness).log_softmax(-1)


def references_of(rows: list[list[int]]) -> References:
    width = max(len(row) for row in rows)
    return References(
        torch.tensor([row + [1] * (width - len(row)) for row in rows]).view(len(rows), width).long(),
        torch.tensor([len(row) for row in rows]),
    )


def stored_of(teacher: DensePosteriors, references: References, count: int, epsilon: float = 0.0) -> Supervision:
    """As a store hands it on: entries of each token, zeros where there are none."""
    gamma = occupancy(teacher.log_probs, teacher.lens, *references, BLANK)
    kept = keep_nucleus(pooled_log_probs(teacher.log_probs, gamma).exp(), epsilon, count)
    array = torch.stack([kept.tokens.float(), kept.probs], -1) * (gamma.sum(-1) > 0)[..., None, None]
    frames = keep_nucleus(teacher.log_probs.exp(), 0.01, 3)
    return Supervision(references, frames._replace(lens=teacher.lens), arrays={POOLED: array})


def loss_of(log_probs: torch.Tensor, lens: list[int], supervision: Supervision) -> torch.Tensor:
    return PooledKl(BLANK)(StudentOutput(log_probs, torch.tensor(lens)), supervision)


def pooled_by_enumeration(log_probs: torch.Tensor, tokens: list[int]) -> list[torch.Tensor] | None:
    """q̄ of each token from all alignments of a tiny case; None when there is none."""
    states = [None, *itertools.chain.from_iterable((place, None) for place in range(len(tokens)))]
    sums, total = torch.zeros(len(tokens), log_probs.shape[-1]), torch.zeros(len(tokens))
    for path in itertools.product(range(len(states)), repeat=len(log_probs)):
        said = [BLANK if states[s] is None else tokens[states[s]] for s in path]
        visited = [states[s] for s, _ in itertools.groupby(path) if states[s] is not None]
        collapsed = [token for token, _ in itertools.groupby(said) if token != BLANK]
        if list(path) != sorted(path) or visited != list(range(len(tokens))) or collapsed != tokens:
            continue
        probability = math.exp(sum(float(log_probs[frame, token]) for frame, token in enumerate(said)))
        for frame, state in enumerate(path):
            if states[state] is not None:
                sums[states[state]] += probability * log_probs[frame].exp()
                total[states[state]] += probability
    return list(sums / total[:, None]) if total.all() and len(tokens) else None


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), tokens=st.lists(st.integers(1, 2), max_size=3), frames=st.integers(1, 4))
def test_equals_the_definition_by_enumeration(seed, tokens, frames):
    teacher, student = random_log_probs(seed, 1, frames, 4), random_log_probs(seed + 1, 1, frames + 1, 4)
    references = references_of([tokens])
    taught = pooled_by_enumeration(teacher[0], tokens)
    said = pooled_by_enumeration(student[0], tokens)
    expected = 0.0
    if taught is not None and said is not None:
        expected = sum(float((q * (q / p).log()).sum()) for q, p in zip(taught, said, strict=True))
    dense = DensePosteriors(teacher, torch.tensor([frames]))
    for supervision in (Supervision(references, dense), stored_of(dense, references, 4)):
        assert float(loss_of(student, [frames + 1], supervision)) == pytest.approx(expected, abs=1e-4, rel=1e-4)


def test_identical_distributions_cost_nothing():
    log_probs = random_log_probs(0, 2, 9, 6)
    references = references_of([[1, 1, 5], [2]])
    dense = DensePosteriors(log_probs, torch.tensor([9, 4]))
    for supervision in (Supervision(references, dense), stored_of(dense, references, 2, 0.1)):
        assert float(loss_of(log_probs, [9, 4], supervision)) == pytest.approx(0.0, abs=1e-5)


def test_a_student_that_says_the_same_later_and_slower_costs_nothing():
    """What frame KL with any single delay cannot forgive."""
    spikes, silence = random_log_probs(1, 1, 3, 5, sharpness=0.3), torch.full((1, 1, 5), -30.0)
    silence[..., BLANK] = 0.0
    boosted = spikes.clone()
    for frame, token in enumerate([2, 2, 4]):
        boosted[0, frame, token] += 6.0
    boosted = boosted.log_softmax(-1)
    one, two, three = boosted[:, :1], boosted[:, 1:2], boosted[:, 2:]
    teacher = torch.cat([one, silence, two, silence, three], 1)
    student = torch.cat([silence, silence, one, silence, silence, silence, two, three, silence], 1)
    supervision = Supervision(references_of([[2, 2, 4]]), DensePosteriors(teacher, torch.tensor([5])))
    assert float(loss_of(student, [9], supervision)) == pytest.approx(0.0, abs=1e-3)
    assert float(loss_of(torch.cat([student[:, :2], two.roll(1, -1), student[:, 3:]], 1), [9], supervision)) > 0.5


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_is_a_sum_over_the_batch_never_negative_and_blind_to_padding(seed):
    teacher, student = random_log_probs(seed, 3, 8, 6), random_log_probs(seed + 1, 3, 11, 6)
    rows, lens = [[1, 2, 2], [], [5]], [8, 5, 6]
    whole = stored_of(DensePosteriors(teacher, torch.tensor(lens)), references_of(rows), 3, 0.05)
    total = loss_of(student, [length + 2 for length in lens], whole)
    parts = []
    for row, length in enumerate(lens):
        alone = stored_of(
            DensePosteriors(teacher[row : row + 1, :length], torch.tensor([length])),
            references_of([rows[row]]),
            3,
            0.05,
        )
        parts.append(loss_of(student[row : row + 1, : length + 2], [length + 2], alone))
    torch.testing.assert_close(total, torch.stack(parts).sum(), atol=1e-4, rtol=1e-4)
    assert all(float(part) >= -1e-5 for part in parts)
    assert float(parts[1]) == 0.0, "nothing is said of an empty reference"


def test_stored_is_at_most_the_dense_one():
    teacher = DensePosteriors(random_log_probs(2, 2, 9, 8), torch.tensor([9, 9]))
    references, student = references_of([[1, 2, 3], [7, 7]]), random_log_probs(3, 2, 9, 8)
    dense = float(loss_of(student, [9, 9], Supervision(references, teacher)))
    costs = [float(loss_of(student, [9, 9], stored_of(teacher, references, count))) for count in (1, 3, 8)]
    assert costs == sorted(costs)
    assert costs[-1] == pytest.approx(dense, rel=1e-4)
    assert costs[0] < dense


def test_the_gradient_is_that_of_the_pooled_mean_with_constant_occupancies():
    teacher = DensePosteriors(random_log_probs(4, 1, 6, 4), torch.tensor([6]))
    references, logits = references_of([[1, 1]]), random_log_probs(5, 1, 6, 4).requires_grad_()
    loss_of(logits, [6], Supervision(references, teacher)).backward()
    gamma = occupancy(logits, torch.tensor([6]), *references, BLANK)
    taught = pooled_log_probs(teacher.log_probs, occupancy(*teacher, *references, BLANK)).exp()
    direction, step = random_log_probs(6, 1, 6, 4), 1e-2
    ends = []
    for side in (step, -step):
        said = pooled_log_probs(logits.detach() + side * direction, gamma)
        ends.append(float((taught * (taught.log() - said)).sum()))
    expected = (ends[0] - ends[1]) / (2 * step)
    assert float((logits.grad * direction).sum()) == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_training_on_it_brings_what_is_said_together():
    teacher = DensePosteriors(random_log_probs(7, 1, 8, 5), torch.tensor([8]))
    logits = random_log_probs(8, 1, 10, 5).requires_grad_()
    supervision = stored_of(teacher, references_of([[3, 1, 1]]), 5)
    before = float(loss_of(logits, [10], supervision))
    optimizer = torch.optim.SGD([logits], lr=0.5)
    for _ in range(50):
        optimizer.zero_grad()
        loss_of(logits, [10], supervision).backward()
        optimizer.step()
    assert float(loss_of(logits, [10], supervision)) < 0.1 * before


def test_tokens_that_only_one_of_both_can_align_add_nothing():
    references = references_of([[1, 1, 2]])
    short = DensePosteriors(random_log_probs(9, 1, 3, 4), torch.tensor([3]))  # four frames are needed
    student = random_log_probs(10, 1, 6, 4).requires_grad_()
    for supervision in (Supervision(references, short), stored_of(short, references, 3)):
        loss = loss_of(student, [6], supervision)
        loss.backward()
        assert float(loss) == 0.0
        assert student.grad.isfinite().all()
    long = DensePosteriors(random_log_probs(9, 1, 6, 4), torch.tensor([6]))
    assert float(loss_of(student[:, :3], [3], stored_of(long, references, 3))) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dense", [False, True])
def test_certain_students_and_teachers_stay_finite(dtype, dense):
    taught = torch.full((2, 3, 4), -math.inf)
    taught[0, range(3), [1, 0, 2]] = 0.0
    taught[1, 0] = torch.tensor([0.0, -math.inf, -math.inf, -math.inf])  # one frame, blank, against [3]
    teacher = DensePosteriors(taught, torch.tensor([3, 1]))
    teacher.log_probs[1, 1:] = 0.0
    references = references_of([[1, 2], [3]])
    logits = torch.full((2, 3, 4), -500.0, dtype=dtype)
    logits[:, :, 0] = 500.0
    logits.requires_grad_()
    supervision = Supervision(references, teacher) if dense else stored_of(teacher, references, 2)
    loss = loss_of(logits.log_softmax(-1), [3, 1], supervision)
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert logits.grad.isfinite().all()
    assert logits.grad.float().abs().max() > 1e-2, "the student must be pulled to what the teacher says"


def test_bf16_of_equals_stays_zero():
    teacher = random_log_probs(11, 1, 20, 12, sharpness=4.0).bfloat16()
    supervision = Supervision(references_of([[1, 5, 5]]), DensePosteriors(teacher, torch.tensor([20])))
    assert float(loss_of(teacher, [20], supervision)) == pytest.approx(0.0, abs=1e-4)


def test_what_is_missing_or_does_not_fit_is_said():
    student, references = random_log_probs(12, 1, 6, 4), references_of([[1, 2]])
    teacher = DensePosteriors(random_log_probs(13, 1, 6, 5), torch.tensor([6]))
    with pytest.raises(TrainingError, match="5 symbols, the student 4"):
        loss_of(student, [6], Supervision(references, teacher))
    stored = stored_of(DensePosteriors(student, torch.tensor([6])), references_of([[1, 2, 3]]), 3)
    with pytest.raises(TrainingError, match="of 3 tokens, references of at most 2"):
        loss_of(student, [6], stored._replace(references=references))
    with pytest.raises(TrainingError, match="no pooled posteriors"):
        loss_of(student, [6], stored._replace(arrays={}))


def test_it_needs_transcripts_and_something_that_trains_blanks():
    given = {"kd_weight": 1.0, "objectives": {"pooled_kl": {}}}
    with pytest.raises(RecipeError, match="never train blanks"):
        parse_settings(DistillSettings, given, "recipe.yaml")
    both = parse_settings(DistillSettings, {"kd_weight": 1.0, "objectives": {"pooled_kl": {}, "frame_kl": {}}}, "r")
    assert both.needs_references
    objective = Objective.from_settings(both, Shape(BLANK))
    assert objective.needs_arrays == (POOLED,)
    assert objective.needs_references
    one = SoftTargets(torch.ones(1, 1, 1).long(), torch.ones(1, 1, 1), torch.tensor([1]))
    with pytest.raises(TrainingError, match="no transcripts"):
        objective(StudentOutput(random_log_probs(0, 1, 1, 3), torch.tensor([1])), Supervision(targets=one), 1)
