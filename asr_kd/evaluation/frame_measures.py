"""A student's posteriors beside its teacher's: emission latency, and agreement frame by frame.

Two latencies are measured for a token:

- *emission*: the centre of the frame in which the student first emits the token, less the centre of the frame in which
  the teacher's alignment begins it. This is a property of the model.
- *available*: the end of the audio that a stream must have received before that frame can be computed, less the same
  centre. A chunk is computed as a whole, so its first frame waits for its last. Computing time comes on top. Audio is
  assumed to go on, as from a microphone; at the end of a file a client can request the rest at once.

The alignment is CTC's: a token lies where the teacher would emit it, not where its sound begins.

Shapes: T frames, V vocabulary, U tokens.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from asr_kd.errors import VocabularyError
from asr_kd.evaluation.open_systems import SystemPosteriors
from asr_kd.features.fbank import FRAME_SHIFT_MS as FEATURE_SHIFT_MS
from asr_kd.features.fbank import SAMPLE_RATE, WINDOW_SAMPLES
from asr_kd.models.layers import FRAME_OFFSET_MS, FRAME_SHIFT_MS, feature_frames_for
from asr_kd.models.settings import Context
from asr_kd.posteriors.measures import dense_kl
from asr_kd.scoring.wer import align_words
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import min_ctc_frames

PARTS = ("tokens", "first_token", "end_of_speech")
"""Every token that both got right; the first of an utterance; the last, from the end of its span."""


class Aligned(NamedTuple):
    """Where a reference lies by forced alignment."""

    tokens: list[int]  # [U], without blanks
    first_frames: list[int]  # [U]
    last_frames: list[int]  # [U], inclusive


def measure_delay(
    references: Sequence[str],
    teacher: SystemPosteriors,
    student: SystemPosteriors,
    pairs: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, Any]:
    """Summary of `token_delays`: count, median and 90th percentile of each part, and how long a chunk waits."""
    found = token_delays(references, teacher, student, pairs)
    context = student.context
    for kind in ("emission", "available"):
        found[kind] = found[kind] and {part: _percentiles(delays) for part, delays in found[kind].items()}
    return {
        **found,
        "chunk_frames": context.chunk_frames if context is not None else None,
        "right_context_frames": context.right_context_frames if context is not None else None,
        "chunk_wait_ms": chunk_wait_ms(context) if context is not None else None,
    }


def token_delays(
    references: Sequence[str],
    teacher: SystemPosteriors,
    student: SystemPosteriors,
    pairs: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, Any]:
    """Delays of the tokens that teacher and student both got right, as plain data.

    Right is what a Levenshtein alignment of the greedy tokens with the reference's matches.

    Args:
        references: transcripts.
        teacher, student: of one vocabulary and grid.
        pairs: log-probabilities of teacher [T, V] and student [T', V] for each reference.

    Returns:
        `emission` and, of a student that streams, `available` (else None): milliseconds for each of `PARTS`.
        `utterances`, `reference_tokens`; `not_aligned`, utterances whose reference is outside the teacher's vocabulary
        or too long for its frames.
    """
    emission: dict[str, list[float]] = {part: [] for part in PARTS}
    available: dict[str, list[float]] = {part: [] for part in PARTS}
    counts = {"utterances": 0, "not_aligned": 0, "reference_tokens": 0}
    for text, (teacher_log_probs, student_log_probs) in zip(references, pairs, strict=True):
        aligned = _aligned_reference(text, teacher, teacher_log_probs)
        if aligned is None:
            counts["not_aligned"] += 1
            continue
        counts["utterances"] += 1
        counts["reference_tokens"] += len(aligned.tokens)
        by_teacher = _right(aligned.tokens, teacher.emissions(teacher_log_probs).tokens)
        emitted = student.emissions(student_log_probs)
        by_student = _right(aligned.tokens, emitted.tokens)
        for position in sorted(by_teacher.keys() & by_student.keys()):
            frame = emitted.frames[by_student[position]]
            began_ms = teacher.grid.centre_ms(aligned.first_frames[position])
            since = {"tokens": began_ms}
            if position == 0:
                since["first_token"] = began_ms
            if position == len(aligned.tokens) - 1:
                since["end_of_speech"] = teacher.grid.centre_ms(aligned.last_frames[position])
            for part, spoken_ms in since.items():
                emission[part].append(student.grid.centre_ms(frame) - spoken_ms)
                if student.context is not None:
                    available[part].append(available_ms(frame, student.context) - spoken_ms)
    return {
        **counts,
        "emission": emission,
        "available": None if student.context is None else available,
    }


def forced_alignment(log_probs: Tensor, tokens: Sequence[int], blank_id: int) -> Aligned | None:
    """The likeliest CTC path [T] that spells `tokens` (torchaudio); None when there are too few frames or no token.

    Args:
        log_probs: [T, V] float32.
        tokens: [U], without blanks.
    """
    if not tokens or len(log_probs) < min_ctc_frames(tokens):
        return None
    targets = torch.tensor([list(tokens)], dtype=torch.int32)
    path, scores = torchaudio.functional.forced_align(log_probs.unsqueeze(0).contiguous(), targets, blank=blank_id)
    spans = torchaudio.functional.merge_tokens(path[0], scores[0], blank=blank_id)
    return Aligned(list(tokens), [span.start for span in spans], [span.end - 1 for span in spans])


def available_ms(frame: int, context: Context) -> float:
    """Audio, in milliseconds from its start, that a stream needs to compute a frame.

    The window of the last feature frame of the chunk reaches 12.5 ms beyond its centre.
    """
    chunk_end = (frame // context.chunk_frames + 1) * context.chunk_frames
    features = feature_frames_for(chunk_end + context.right_context_frames)
    centre_ms = (features - 0.5) * FEATURE_SHIFT_MS
    return centre_ms + 1000 * WINDOW_SAMPLES / 2 / SAMPLE_RATE


def chunk_wait_ms(context: Context) -> dict[str, float]:
    """How long after its own centre a frame can be computed: the last frame of a chunk, on average, the first."""
    waits = [
        available_ms(frame, context) - (FRAME_OFFSET_MS + frame * FRAME_SHIFT_MS)
        for frame in range(context.chunk_frames)
    ]
    return {"least": min(waits), "mean": sum(waits) / len(waits), "most": max(waits)}


def _aligned_reference(text: str, teacher: SystemPosteriors, log_probs: Tensor) -> Aligned | None:
    """The transcript as it stands, or as a normalizer of training writes it where only that can be spelled."""
    for normalizer in get_args(Normalizer):
        try:
            tokens = teacher.vocabulary.encode(normalize(text, normalizer))
        except VocabularyError:
            continue
        return forced_alignment(log_probs, tokens, teacher.vocabulary.blank_id)
    return None


def _right(reference: Sequence[int], hypothesis: Sequence[int]) -> dict[int, int]:
    """Place in the reference → place in the hypothesis, of the tokens that are equal."""
    (edits,) = align_words([" ".join(map(str, reference))], [" ".join(map(str, hypothesis))])
    return {
        edit.reference_start + step: edit.hypothesis_start + step
        for edit in edits
        if edit.kind == "equal"
        for step in range(edit.length)
    }


def _percentiles(delays: Sequence[float]) -> dict[str, float | int | None]:
    if not delays:
        return {"count": 0, "median_ms": None, "p90_ms": None}
    median, high = np.percentile(delays, [50, 90])
    return {"count": len(delays), "median_ms": round(float(median), 3), "p90_ms": round(float(high), 3)}


MOST_SHIFT_FRAMES = 15
"""Delays that are tried: up to 600 ms."""


def frame_agreement(pairs: Iterable[tuple[Tensor, Tensor]], blank_id: int) -> dict[str, Any]:
    """KL(teacher ‖ student) a frame in nats and shares of frames with the same likeliest token, as plain data.

    `spoken_agreement` counts only frames whose likeliest token by the teacher is not blank: most frames of CTC are, and
    they agree easily. A student that emits later is compared at every shift d up to 15 frames, the teacher's
    frame t with the student's t + d, over the frames that both have; the best is that of the lowest KL.

    Args:
        pairs: log-probabilities of teacher [T, V] and student [T', V] on one grid; lengths may differ.

    Returns:
        `frames`, and `frame_kl`, `argmax_agreement`, `spoken_agreement` at no shift; the same three as `at_best_shift`
        with `shift_frames` and `shift_ms`. Rates over no frame are None.
    """
    sums = torch.zeros(MOST_SHIFT_FRAMES + 1, 5, dtype=torch.float64)
    for teacher, student in pairs:
        for shift in range(len(sums)):
            frames = min(len(teacher), len(student) - shift)
            if frames > 0:
                sums[shift] += _frame_sums(teacher[:frames], student[shift : shift + frames], blank_id)
    found = [
        {
            "frame_kl": divergence / frames if frames else None,
            "argmax_agreement": agreed / frames if frames else None,
            "spoken_agreement": agreed_spoken / spoken if spoken else None,
        }
        for frames, spoken, divergence, agreed, agreed_spoken in sums.tolist()
    ]
    best = min(range(len(found)), key=lambda shift: sums[shift, 2] / sums[shift, 0] if sums[shift, 0] else math.inf)
    at_best = {"shift_frames": best, "shift_ms": best * FRAME_SHIFT_MS, **found[best]}
    return {"frames": int(sums[0, 0]), **found[0], "at_best_shift": at_best}


def _frame_sums(teacher: Tensor, student: Tensor, blank_id: int) -> Tensor:
    """Frames, those of the teacher's tokens, KL, and agreement over both, [5] float64."""
    best = teacher.argmax(-1)
    agreed, spoken = best == student.argmax(-1), best != blank_id
    counted = (torch.ones_like(best), spoken, dense_kl(teacher, student), agreed, agreed & spoken)
    return torch.stack([each.sum().double() for each in counted])
