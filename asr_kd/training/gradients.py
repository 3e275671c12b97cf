"""Gradients of several processes, summed in one go. Knows parameters, not what they are for."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asr_kd.distributed import Ranks


class Gradients:
    """The gradients of all processes together; of our own where we are alone.

    Among several processes the gradients lie in one flat buffer, with a few more numbers at its end, so that a step
    takes one all-reduce. There a parameter without a gradient has one of zero, and nothing depends on which parameters
    a process used: one whose share of a batch is empty takes part with zeros.

    Args:
        parameters: what is trained, float32.
        ranks: whose gradients.
        extra: numbers that travel along.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, extra: int) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.ranks, self.extra = ranks, extra
        self._flat: Tensor | None = None
        if ranks.count > 1:
            size = sum(parameter.numel() for parameter in self.parameters)
            self._flat = torch.zeros(size + extra, device=self.parameters[0].device)

    def clear(self) -> None:
        """Begin a step."""
        if self._flat is None:
            for parameter in self.parameters:
                parameter.grad = None
            return
        self._flat.zero_()
        start = 0
        for parameter in self.parameters:
            parameter.grad = self._flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def sum(self, numbers: Tensor) -> Tensor:
        """Make the gradients those of all processes; returns the sum of the numbers [extra] that travel along."""
        if self._flat is None:
            return numbers
        self._flat[-self.extra :] = numbers
        self.ranks.sum(self._flat)
        return self._flat[-self.extra :].clone()
