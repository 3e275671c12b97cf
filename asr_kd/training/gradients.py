"""Gradients reduced over processes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asr_kd.distributed import Ranks


class Gradients:
    """Gradients summed over all processes, by one all-reduce a step.

    With several processes the gradients are views of one flat buffer, followed by a few more numbers (the loss terms).
    A parameter without a gradient contributes zeros, so a process whose part of the batch is empty takes part as well.

    Args:
        parameters: trained parameters, float32; those without `requires_grad` are left out.
        ranks: the processes; with one, nothing is reduced.
        extra: count of additional numbers.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, extra: int) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.ranks, self.extra = ranks, extra
        self._flat: Tensor | None = None
        if ranks.count > 1:
            size = sum(parameter.numel() for parameter in self.parameters)
            self._flat = torch.zeros(size + extra, device=self.parameters[0].device)

    def clear(self) -> None:
        """Set all gradients to zero (one process: to None); call it before the backward pass of a step."""
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
        """All-reduce the gradients; return the sum of the additional numbers [extra]."""
        if self._flat is None:
            return numbers
        self._flat[-self.extra :] = numbers
        self.ranks.sum(self._flat)
        return self._flat[-self.extra :].clone()
