"""Gradients of several processes: the sum of what they have, and none of what no process has."""

import torch
from torch import nn

from asr_kd.distributed import ALONE, Ranks
from asr_kd.training.gradients import Gradients


class WithAnother(Ranks):
    """The first of two processes; the second sends what it is given."""

    def __init__(self, sent: torch.Tensor | None = None) -> None:
        super().__init__(0, 2)
        self.sent = sent

    def sum(self, tensor: torch.Tensor) -> None:
        self.buffer = tensor.clone()
        if self.sent is not None:
            tensor += self.sent


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(1))]


def backward(gradients: Gradients, factors: dict[int, float]) -> None:
    gradients.clear()
    for number, factor in factors.items():
        (factor * gradients.parameters[number].sum()).backward()


def test_the_sum_over_processes_and_none_where_no_process_has_a_gradient():
    theirs = WithAnother()
    other = Gradients(parameters(), theirs, extra=2)
    backward(other, {1: 5.0})
    other.sum(torch.tensor([1.0, 2.0]))
    ours = Gradients(parameters(), WithAnother(theirs.buffer), extra=2)
    for factors, expected in (({0: 3.0}, 5.0), ({0: 3.0, 1: 2.0}, 7.0)):
        backward(ours, factors)
        assert ours.sum(torch.tensor([10.0, 20.0])).tolist() == [11.0, 22.0]
        assert ours.parameters[0].grad.equal(torch.full((2, 2), 3.0))
        assert ours.parameters[1].grad.equal(torch.full((3,), expected))
        assert ours.parameters[2].grad is None


def test_what_has_no_gradient_is_left_as_it_is_by_any_number_of_processes():
    """Weight decay would move it otherwise, and the optimizer would count steps that it did not take."""
    moved = []
    for ranks in (ALONE, WithAnother()):
        gradients = Gradients(parameters(), ranks, extra=1)
        optimizer = torch.optim.AdamW(gradients.parameters, lr=0.1, weight_decay=0.5)
        for _ in range(3):
            backward(gradients, {0: 1.0})
            gradients.sum(torch.zeros(1))
            optimizer.step()
        assert gradients.parameters[1].equal(torch.ones(3))
        assert gradients.parameters[1] not in optimizer.state
        backward(gradients, {0: 1.0, 1: 1.0})
        gradients.sum(torch.zeros(1))
        optimizer.step()
        moved.append([parameter.detach().clone() for parameter in gradients.parameters])
    assert all(one.equal(other) for one, other in zip(*moved, strict=True))


def test_a_process_without_a_part_of_the_batch_takes_part():
    theirs = WithAnother()
    other = Gradients(parameters(), theirs, extra=1)
    backward(other, {0: 2.0})
    other.sum(torch.ones(1))
    ours = Gradients(parameters(), WithAnother(theirs.buffer), extra=1)
    ours.clear()
    assert ours.sum(torch.zeros(1)).tolist() == [1.0]
    assert ours.parameters[0].grad.equal(torch.full((2, 2), 2.0))
    assert ours.parameters[1].grad is None
