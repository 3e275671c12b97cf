"""Outputs of a tiny student in one pass and in further ones, for tests of objectives."""

import torch

from asr_kd.losses import References, StudentOutput

BLANK = 0
LENS = torch.tensor([6, 4, 1])
REFERENCES = References(torch.tensor([[1, 2], [3, 0], [0, 0]]), torch.tensor([2, 1, 0]))


def random_logits(seed: int, *shape: int, sharpness: float = 2.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * sharpness


def random_log_probs(seed: int, *shape: int) -> torch.Tensor:
    return random_logits(seed, *shape).log_softmax(-1)


def student_output(log_probs: torch.Tensor, lens: torch.Tensor = LENS, **passes: torch.Tensor) -> StudentOutput:
    """A pass with these further ones, of the same lengths."""
    return StudentOutput(log_probs, lens, passes={name: StudentOutput(other, lens) for name, other in passes.items()})


def rows(output: StudentOutput, chosen: slice) -> StudentOutput:
    """Some utterances of a batch, in every pass."""
    layers = {number: layer[chosen] for number, layer in output.layers.items()}
    passes = {name: rows(other, chosen) for name, other in output.passes.items()}
    return StudentOutput(output.log_probs[chosen], output.lens[chosen], layers, passes)


def padded(output: StudentOutput, frames: int) -> StudentOutput:
    """The same with so many frames of anything after the end, in every pass."""

    def longer(part: torch.Tensor) -> torch.Tensor:
        return torch.cat([part, torch.full((part.shape[0], frames, part.shape[2]), -3.0)], dim=1)

    layers = {number: longer(layer) for number, layer in output.layers.items()}
    passes = {name: padded(other, frames) for name, other in output.passes.items()}
    return StudentOutput(longer(output.log_probs), output.lens, layers, passes)


def references_of(chosen: slice) -> References:
    return References(*(part[chosen] for part in REFERENCES))
