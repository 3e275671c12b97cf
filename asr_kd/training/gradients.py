"""Gradients reduced over processes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from asr_kd.distributed import Ranks


class Gradients:
    """Gradients summed over all processes, by one all-reduce a step.

    With several processes they are sent in one flat buffer, with a few more numbers (the loss terms). A parameter
    without a gradient contributes zeros, so a process whose part of the batch is empty takes part too. A parameter
    without a gradient in any process has none afterwards, as with one process: the optimizer does not change it.

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
            size = sum(parameter.numel() for parameter in self.parameters) + len(self.parameters)
            self._flat = torch.zeros(size + extra, device=self.parameters[0].device)

    def clear(self) -> None:
        """Set all gradients to None; call it before the backward pass of a step."""
        for parameter in self.parameters:
            parameter.grad = None

    def sum(self, numbers: Tensor) -> Tensor:
        """All-reduce the gradients; return the sum of the additional numbers [extra]."""
        if self._flat is None:
            return numbers
        sizes = [parameter.numel() for parameter in self.parameters]
        *parts, counts, sums = self._flat.split([*sizes, len(sizes), self.extra])
        for parameter, part in zip(self.parameters, parts, strict=True):
            if parameter.grad is None:
                part.zero_()
            else:
                part.copy_(parameter.grad.flatten())
        counts.copy_(torch.tensor([parameter.grad is not None for parameter in self.parameters]))
        sums.copy_(numbers)
        self.ranks.sum(self._flat)
        for parameter, part, count in zip(self.parameters, parts, counts.tolist(), strict=True):
            parameter.grad = part.view_as(parameter) if count else None
        return sums.clone()
