"""WER × chunk × left context of one streaming model, each with its delay: the price of answering sooner.

The weights stay; only what a frame may see changes. A model that was trained with several contexts serves them all,
another one only its own well, so each row says whether the model has seen its context in training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from asr_kd.corpora.manifest import Utterance
from asr_kd.evaluation.measuring import Sample
from asr_kd.evaluation.system_outputs import ask
from asr_kd.evaluation.systems import System
from asr_kd.models.settings import Context
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.progress import SILENT, Progress
from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.scoring.wer import score


def can_change_context(system: System) -> bool:
    """Whether it is a chunked model that runs in torch; a bundle's chunk is fixed."""
    recognizer = system.recognizer
    return (
        isinstance(recognizer, Recognizer)
        and isinstance(recognizer.backend, TorchBackend)
        and recognizer.context is not None
    )


def context_matrix(
    system: System,
    set_name: str,
    utterances: Sequence[Utterance],
    sample: Sample,
    teacher: System | None = None,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """A row for each context of `evaluate.matrix`, as plain data.

    Args:
        system: a chunked model (`can_change_context`).
        set_name: of the test set.
        utterances: what is transcribed.
        sample: what delays are measured on, and the settings.
        teacher: against whose alignment; None, or a sample of nothing, measures no delay.
    """
    settings = sample.settings
    variants = {context: in_context(system, context) for context in settings.matrix}
    label = f"matrix {system.key} {set_name}"
    answers = ask(
        {_name(context): variant.recognizer for context, variant in variants.items()},
        utterances,
        settings.batch_seconds,
        report=lambda done: progress.update(label, done, len(utterances), "utterances"),
    )
    references = {utterance.id: utterance.text or "" for utterance in utterances}
    trained = trained_contexts(system)
    rows = []
    for context, variant in variants.items():
        words = score(references, answers.texts[_name(context)], settings.normalizer).words
        errors = {"wer": words.wer, "errors": words.errors, "words": words.words, "utterances": len(utterances)}
        delay, _ = sample.against(teacher, variant)
        rows.append({"set": set_name, **_described(context), "trained": context in trained, **errors, **delay})
    return rows


def in_context(system: System, context: Context) -> System:
    """The same system with another chunk and left context."""
    if not isinstance(system.recognizer, Recognizer):
        raise TypeError(f"{system.key} has no context to change")
    return replace(system, recognizer=system.recognizer.in_context(context))


def trained_contexts(system: System) -> set[Context]:
    """The contexts that a chunked model saw in training."""
    backend: Any = getattr(system.recognizer, "backend", None)
    streaming = backend.model.settings.streaming if isinstance(backend, TorchBackend) else None
    return set() if streaming is None else {*(streaming.train_contexts or [streaming.context])}


def _described(context: Context) -> dict[str, int]:
    return {
        "chunk_frames": context.chunk_frames,
        "left_context_frames": context.left_context_frames,
        "chunk_ms": context.chunk_frames * FRAME_SHIFT_MS,
        "left_context_ms": context.left_context_frames * FRAME_SHIFT_MS,
    }


def _name(context: Context) -> str:
    return f"{context.chunk_frames} frames after {context.left_context_frames}"
