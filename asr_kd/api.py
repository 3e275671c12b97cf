"""The Python interface: what `import asr_kd` offers, beside the modules of each folder.

import asr_kd

recognizer = asr_kd.open_recognizer("exp/an4/export/student-kd")
store = asr_kd.SoftTargetStore.open("exp/an4/targets/teacher")
loss = asr_kd.distill_loss(log_probs, lens, asr_kd.collate_targets([store.read("u1"), store.read("u2")]))
asr_kd.score({"u1": "YES"}, {"u1": "YES"}, "librispeech").wer
"""

from typing import Any

from torch import Tensor

from asr_kd.losses import DistillSettings, Objective, References, Shape, StudentOutput, Supervision
from asr_kd.models.weights import LoadedModel, load_model
from asr_kd.posteriors.types import DensePosteriors, SoftTargets
from asr_kd.posteriors.types import collate as collate_targets
from asr_kd.runtime.recognizer import Recognizer, open_recognizer
from asr_kd.scoring.wer import Score, score
from asr_kd.targets import Store as SoftTargetStore

__all__ = [
    "LoadedModel",
    "Recognizer",
    "Score",
    "SoftTargetStore",
    "collate_targets",
    "distill_loss",
    "load_model",
    "open_recognizer",
    "score",
]


def distill_loss(
    log_probs: Tensor,
    lens: Tensor,
    targets: SoftTargets | DensePosteriors,
    tokens: Tensor | None = None,
    token_lens: Tensor | None = None,
    *,
    blank_id: int = 0,
    kd_weight: float | None = None,
    **settings: Any,
) -> Tensor:
    """Return ((1 − λ)·CTC + λ·KL) / frames for a batch: the loss of a recipe's student, as one function.

    B utterances, T frames of the student, V vocabulary, U tokens. In a training loop whose objective has parameters,
    or needs hypotheses or hidden layers, use `asr_kd.losses.Objective`.

    Args:
        log_probs: natural logarithms, [B, T, V], any float type, normalized over V.
        lens: the student's frames, [B] int64.
        targets: soft targets of the same utterances: `collate_targets` of what a store holds, or dense posteriors.
        tokens: transcripts without blanks, [B, U] int64, padded with anything; None: the soft targets alone (λ = 1).
        token_lens: tokens of each transcript, [B] int64; required with `tokens`.
        blank_id: the blank's index.
        kd_weight: λ; None: 0.5 with transcripts, 1 without.
        settings: further keys of a recipe's `distill` (selection, dilation, delay_frames, …).

    Returns:
        A float32 scalar, in nats per student frame.

    Raises:
        TrainingError: a student shorter than its targets and the delay, another number of utterances, another
            vocabulary size, or no transcripts although λ < 1.
        ValueError: targets without lengths (not from `collate_targets`), or one of tokens and token_lens alone.
        pydantic.ValidationError: an unknown setting, or settings that exclude each other.
    """
    if (tokens is None) != (token_lens is None):
        missing = "tokens" if tokens is None else "token_lens"
        raise ValueError(f"{missing} is missing: transcripts are given as tokens with their token_lens")
    weight = kd_weight if kd_weight is not None else (1.0 if tokens is None else 0.5)
    objective = Objective.from_settings(DistillSettings(kd_weight=weight, **settings), Shape(blank_id))
    references = None if tokens is None or token_lens is None else References(tokens, token_lens)
    losses = objective(StudentOutput(log_probs, lens), Supervision(references, targets), lens.sum())
    return losses.total
