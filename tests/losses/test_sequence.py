"""Sequence level: plain CTC for one hypothesis, brute force for several, weights, padding, extremes."""

import itertools
import math

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import TrainingError
from asr_kd.losses import DistillSettings, Hypotheses, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.losses.ctc import SequenceCtc, ctc_loss, normalised_weights

LENS = torch.tensor([6, 4])


def hypotheses(*listed: tuple[int, list[int], float], padding: int = 0) -> Hypotheses:
    """From (utterance, tokens, weight)."""
    width = max((len(tokens) for _, tokens, _ in listed), default=0) + padding
    tokens = torch.full((len(listed), width), 2)
    for index, (_, ids, _) in enumerate(listed):
        tokens[index, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return Hypotheses(
        tokens,
        torch.tensor([len(ids) for _, ids, _ in listed], dtype=torch.int64),
        torch.tensor([row for row, _, _ in listed], dtype=torch.int64),
        torch.tensor([weight for _, _, weight in listed]),
    )


def loss(log_probs: torch.Tensor, given: Hypotheses, lens: torch.Tensor = LENS) -> torch.Tensor:
    return SequenceCtc(0)(StudentOutput(log_probs, lens), Supervision(hypotheses=given))


@pytest.fixture
def log_probs() -> torch.Tensor:
    return torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).log_softmax(-1)


@pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
def test_one_hypothesis_is_plain_ctc_whatever_its_weight(log_probs, weight):
    given = hypotheses((0, [1, 2], weight), (1, [3], weight))
    references = References(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))
    torch.testing.assert_close(loss(log_probs, given), ctc_loss(log_probs, LENS, references, 0))


def path_cost(log_probs: torch.Tensor, tokens: list[int]) -> float:
    """−log of the sum over all paths that collapse to `tokens`, [T, V]."""
    paths = itertools.product(range(log_probs.shape[1]), repeat=log_probs.shape[0])
    wanted = [path for path in paths if [t for t, _ in itertools.groupby(path) if t != 0] == tokens]
    return -math.log(sum(math.exp(sum(float(log_probs[t, x]) for t, x in enumerate(path))) for path in wanted))


def test_equals_the_weighted_sum_over_all_paths():
    log_probs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    given = hypotheses((0, [1, 1], 3.0), (1, [2], 2.0), (0, [2], 1.0), (1, [], 6.0))
    lens = torch.tensor([4, 3])
    expected = (
        0.75 * path_cost(log_probs[0], [1, 1])
        + 0.25 * path_cost(log_probs[0], [2])
        + 0.25 * path_cost(log_probs[1, :3], [2])
        + 0.75 * path_cost(log_probs[1, :3], [])
    )
    assert float(loss(log_probs, given, lens)) == pytest.approx(expected, abs=1e-5)


def test_weights_sum_to_one_over_each_utterance():
    given = hypotheses((1, [1], 3.0), (0, [2], 0.2), (1, [2], 1.0), (2, [3], 0.0))
    torch.testing.assert_close(normalised_weights(given, 3), torch.tensor([0.75, 1.0, 0.25, 0.0]))


def test_padding_order_and_other_utterances_change_nothing(log_probs):
    listed = [(0, [1, 2], 0.5), (0, [1], 0.5), (1, [3], 1.0)]
    plain = loss(log_probs, hypotheses(*listed))
    torch.testing.assert_close(loss(log_probs, hypotheses(*listed, padding=3)), plain)
    torch.testing.assert_close(loss(log_probs, hypotheses(*reversed(listed))), plain)
    alone = loss(log_probs[:1], hypotheses(*listed[:2]), LENS[:1]) + loss(
        log_probs[1:, :4], hypotheses((0, [3], 1.0)), LENS[1:]
    )
    torch.testing.assert_close(plain, alone)


def test_an_utterance_without_hypotheses_adds_nothing_and_gets_no_gradient(log_probs):
    log_probs.requires_grad_()
    loss(log_probs, hypotheses((0, [1], 1.0))).backward()
    assert log_probs.grad is not None
    assert log_probs.grad[0].abs().sum() > 0
    assert log_probs.grad[1].abs().sum() == 0
    torch.testing.assert_close(
        loss(log_probs, hypotheses((0, [1], 1.0))), loss(log_probs[:1], hypotheses((0, [1], 1.0)), LENS[:1])
    )


def test_a_batch_without_any_is_zero_with_a_gradient(log_probs):
    log_probs.requires_grad_()
    found = loss(log_probs, hypotheses())
    found.backward()
    assert float(found.detach()) == 0
    assert log_probs.grad is not None
    assert log_probs.grad.abs().sum() == 0


def test_what_cannot_be_said_in_so_few_frames_is_infinite_unless_it_weighs_nothing(log_probs):
    long = [1, 2, 3, 1, 2, 3, 1]
    assert torch.isinf(loss(log_probs, hypotheses((0, long, 0.5), (0, [1], 0.5))))
    torch.testing.assert_close(
        loss(log_probs, hypotheses((0, long, 0.0), (0, [1], 0.5))), loss(log_probs, hypotheses((0, [1], 1.0)))
    )


def test_what_weighs_nothing_has_no_gradient_either(log_probs):
    log_probs.requires_grad_()
    loss(log_probs, hypotheses((0, [1, 2, 3, 1, 2, 3, 1], 0.0), (0, [1], 0.5))).backward()
    assert log_probs.grad is not None
    assert log_probs.grad.isfinite().all()


def test_bf16_is_computed_in_float32(log_probs):
    given = hypotheses((0, [1, 2], 0.5), (0, [1], 0.5), (1, [3], 1.0))
    found = loss(log_probs.bfloat16(), given)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(loss(log_probs, given)), rel=0.02)


def test_certain_students_and_one_frame_are_finite():
    log_probs = torch.full((1, 1, 3), -torch.inf)
    log_probs[0, 0, 1] = 0.0
    assert float(loss(log_probs, hypotheses((0, [1], 1.0)), torch.tensor([1]))) == 0


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_objective_weighs_it_against_the_transcripts(log_probs, weight):
    objective = Objective.from_settings(DistillSettings(kd_weight=weight, level="sequence"), Shape(0))
    assert not objective.needs_targets
    assert objective.needs_hypotheses == (weight > 0)
    assert objective.needs_references == (weight < 1)
    references = References(torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]))
    given = hypotheses((0, [1], 0.5), (0, [3], 0.5), (1, [2], 1.0))
    terms = objective(
        StudentOutput(log_probs, LENS),
        Supervision(references if weight < 1 else None, None, given if weight else None),
        10,
    )
    labels, taught = ctc_loss(log_probs, LENS, references, 0) / 10, loss(log_probs, given) / 10
    torch.testing.assert_close(terms.total, (1 - weight) * labels + weight * taught)


def test_missing_hypotheses_are_named(log_probs):
    objective = Objective.from_settings(DistillSettings(kd_weight=1.0, level="sequence"), Shape(0))
    with pytest.raises(TrainingError, match="no hypotheses"):
        objective(StudentOutput(log_probs, LENS), Supervision(), 10)


def test_what_is_refused_about_frames_does_not_matter_for_sequences():
    given = {"level": "sequence", "kd_weight": 1.0, "dilation": 0, "temperature": 2.0}
    assert parse_settings(DistillSettings, given, "recipe.yaml").needs_hypotheses
