"""Some utterances of a batch, with all that belongs to them. Knows tensors only.

Shapes: B utterances.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from asr_kd.losses.base import Hypotheses, References, StudentOutput, Supervision, Untranscribed
from asr_kd.posteriors.types import DensePosteriors, SoftTargets, SparsePosteriors


def student_of(student: StudentOutput, rows: Sequence[int]) -> StudentOutput:
    """What a student makes of some rows of a batch, further passes included."""
    taken = _index(rows, student.log_probs)
    return StudentOutput(
        student.log_probs[taken],
        student.lens[_index(rows, student.lens)],
        {number: layer[taken] for number, layer in student.layers.items()},
        {name: student_of(output, rows) for name, output in student.passes.items()},
    )


def supervision_of(supervision: Supervision, rows: Sequence[int], *, transcribed: bool) -> Supervision:
    """What some rows of a batch can teach; all of them are transcribed, or none."""
    references, targets, hypotheses = supervision.references, supervision.targets, supervision.hypotheses
    kind = References if transcribed else Untranscribed

    def take(part: Tensor) -> Tensor:
        return part[_index(rows, part)]

    return Supervision(
        kind(take(references.tokens), take(references.lens)) if references is not None else None,
        _targets_of(targets, rows) if targets is not None else None,
        hypotheses_of(hypotheses, rows, _count(supervision)) if hypotheses is not None else None,
        {number: take(layer) for number, layer in supervision.teacher_layers.items()},
        {name: take(array) for name, array in supervision.arrays.items()},
    )


def hypotheses_of(hypotheses: Hypotheses, rows: Sequence[int], num_utterances: int) -> Hypotheses:
    """Those of some rows of a batch of so many utterances; rows are counted anew."""
    number = torch.full((num_utterances,), -1, dtype=torch.int64, device=hypotheses.rows.device)
    number[_index(rows, number)] = torch.arange(len(rows), device=number.device)
    renumbered = number[hypotheses.rows]
    kept = (renumbered >= 0).nonzero()[:, 0]
    tokens = hypotheses.tokens[kept.to(hypotheses.tokens.device, non_blocking=True)]
    return Hypotheses(tokens, hypotheses.lens[kept], renumbered[kept], hypotheses.weights[kept])


def _targets_of(targets: SoftTargets | DensePosteriors, rows: Sequence[int]) -> SoftTargets | DensePosteriors:
    lens = targets.lens[_index(rows, targets.lens)]
    if isinstance(targets, DensePosteriors):
        return DensePosteriors(targets.log_probs[_index(rows, targets.log_probs)], lens)
    taken = _index(rows, targets.posteriors.probs)
    return SoftTargets(SparsePosteriors(*(part[taken] for part in targets.posteriors)), lens)


def _count(supervision: Supervision) -> int:
    """B, which hypotheses do not say themselves."""
    if supervision.references is None:
        raise ValueError("rows are taken of batches with references")
    return len(supervision.references.lens)


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    """Rows as an index on the device of a tensor, without waiting for it."""
    return torch.tensor(rows, dtype=torch.int64).to(like.device, non_blocking=True)
