"""Systems under changed conditions: WER by chunk, left and right context, and WER in noise, rooms and codecs.

The weights stay as they are. In the matrix of contexts only the frames that a model sees change: a model that was
trained with several contexts serves them all, another one only its own well, so each row states whether the context
was among those of training. What a condition does to an utterance depends on the utterance's id and the condition
alone, so every system gets the same samples, in every run.

Shapes: S samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError, EvaluationError
from asr_kd.evaluation.resumption import OutputTexts, Resumption, SetVariant
from asr_kd.evaluation.sample_measures import Sample
from asr_kd.evaluation.settings import Condition, EvaluationSettings
from asr_kd.evaluation.system import System
from asr_kd.evaluation.system_outputs import TranscribedSet, spread, transcribe_all
from asr_kd.features import perturb
from asr_kd.features.augment import speed_perturb
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.settings import Context
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


def swept_utterances(outputs: TranscribedSet, settings: EvaluationSettings) -> list[Utterance]:
    """The utterances of a set with words, or `evaluate.sweep_utterances` of them."""
    with_words = [utterance for utterance in outputs.utterances if (utterance.text or "").strip()]
    return spread(with_words, settings.sweep_utterances or len(with_words))


def context_matrix(
    system: System,
    set_name: str,
    utterances: Sequence[Utterance],
    sample: Sample,
    teacher: System | None = None,
    resumption: Resumption | None = None,
    progress: Progress = SILENT,
) -> list[dict[str, Any]]:
    """A row for each context of `evaluate.matrix`, as plain data.

    Args:
        system: a chunked model (`can_change_context`).
        sample: what delays are measured on, and the settings.
        teacher: against whose alignment; None, or a sample of nothing, measures no delay.
        resumption: transcripts from before, and reasons to stop; None: neither.
    """
    settings, resumption = sample.settings, resumption or Resumption()
    references = {utterance.id: utterance.text or "" for utterance in utterances}
    trained = trained_contexts(system)
    rows = []
    for context in dict.fromkeys(settings.matrix):
        changed = in_context(system, context)
        variant = SetVariant(set_name, context_name(context))

        def report(done: int, variant: SetVariant = variant) -> None:
            progress.update(f"matrix {system.key} {variant}", done, len(utterances), "utterances")

        outputs = transcribe_all(
            {system.key: changed.recognizer}, variant, utterances, settings.batch_seconds, resumption, report
        )
        words = score(references, outputs.texts[system.key], settings.normalizer).words
        delay, _ = sample.against(teacher, changed)
        rows.append(
            {
                "set": set_name,
                "chunk_frames": context.chunk_frames,
                "left_context_frames": context.left_context_frames,
                "right_context_frames": context.right_context_frames,
                "chunk_ms": context.chunk_frames * FRAME_SHIFT_MS,
                "left_context_ms": context.left_context_frames * FRAME_SHIFT_MS,
                "right_context_ms": context.right_context_frames * FRAME_SHIFT_MS,
                "trained": context in trained,
                "wer": words.rate,
                "errors": words.errors,
                "words": words.length,
                "utterances": len(utterances),
                **delay,
            }
        )
    return rows


def context_name(context: Context) -> str:
    """The name of a context among the variants of a set."""
    return "context " + "-".join(map(str, context))


def in_context(system: System, context: Context) -> System:
    """The same system in another context."""
    recognizer: Any = system.recognizer
    return replace(system, recognizer=recognizer.in_context(context))


def trained_contexts(system: System) -> set[Context]:
    """The contexts that a chunked model saw in training."""
    backend: Any = getattr(system.recognizer, "backend", None)
    streaming = backend.model.settings.streaming if isinstance(backend, TorchBackend) else None
    return set() if streaming is None else {*(streaming.train_contexts or [streaming.context])}


BABBLE_UTTERANCES = 5
"""Other utterances of the set that babble is made of."""

OtherUtterances = Callable[[int], Sequence[Tensor]]
"""Returns the given number of other utterances, [S] each."""

CLEAN = "clean"
"""The row of the same utterances as they are."""

WAVEFORMS_KEPT = 64
"""Utterances whose audio is kept for the babble of others."""


def robustness_rows(
    systems: Sequence[System],
    set_name: str,
    clean: TranscribedSet,
    settings: EvaluationSettings,
    resumption: Resumption | None = None,
    progress: Progress = SILENT,
) -> dict[str, list[dict[str, Any]]]:
    """System's key → a row for `clean` and each condition of `evaluate.robustness`, as plain data; empty without any.

    Args:
        clean: the set as it was transcribed without a condition; babble is made of other utterances of it.
        resumption: transcripts from before, and reasons to stop; None: neither.
    """
    resumption = resumption or Resumption()
    if not settings.conditions:
        return {}
    utterances = swept_utterances(clean, settings)
    references = {utterance.id: utterance.text or "" for utterance in utterances}
    babble = BabbleSource(utterances)
    texts: dict[str, OutputTexts] = {CLEAN: clean.texts}
    for condition in settings.conditions:

        def change(utterance: Utterance, waveform: Tensor, condition: Condition = condition) -> Tensor:
            return perturbed(waveform, condition, utterance.id, partial(babble.others_of, utterance))

        def report(done: int, name: str = condition.name) -> None:
            progress.update(name, done, len(utterances), "utterances")

        recognizers = {system.key: system.recognizer for system in systems}
        variant = SetVariant(set_name, condition.name)
        outputs = transcribe_all(recognizers, variant, utterances, settings.batch_seconds, resumption, report, change)
        if outputs.excluded:  # they were all read before
            raise AudioError(outputs.excluded[0].reason, where=outputs.excluded[0].path)
        texts[condition.name] = outputs.texts
    rows: dict[str, list[dict[str, Any]]] = {system.key: [] for system in systems}
    for name, found in texts.items():
        for key, own in rows.items():
            written = {utterance_id: found[key][utterance_id] for utterance_id in references}
            words = score(references, written, settings.normalizer).words
            errors = {"wer": words.rate, **words.row, "utterances": len(references)}
            own.append({"set": set_name, "condition": name, **errors})
    return rows


class BabbleSource:
    """Other utterances of a set, to make babble of."""

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        self._utterances = sorted(utterances, key=lambda utterance: utterance.id)
        self._read = lru_cache(maxsize=WAVEFORMS_KEPT)(read_utterance)

    def others_of(self, utterance: Utterance, count: int) -> list[Tensor]:
        """Waveforms [S] of `count` other utterances, of other speakers where there are any; drawn by the id.

        Raises:
            EvaluationError: there is no other utterance.
        """
        others = [other for other in self._utterances if other.id != utterance.id]
        candidates = [other for other in others if other.speaker != utterance.speaker] or others
        if not candidates:
            raise EvaluationError(
                "babble needs other utterances, and there is one only", where=utterance.id, expected="at least two"
            )
        order = torch.randperm(len(candidates), generator=perturb.generator_for("crowd", utterance.id)).tolist()
        return [self._read(candidates[place]) for place in order[:count]]


def perturbed(waveform: Tensor, condition: Condition, utterance_id: str, others: OtherUtterances) -> Tensor:
    """A waveform [S] under a condition; as long as before, unless its speed changes or silence leads.

    The id of the utterance and the condition decide all that is drawn.
    """
    generator = perturb.generator_for("robustness", utterance_id, condition.name)
    value, samples = condition.value, len(waveform)
    match condition.kind:
        case "babble":
            return perturb.add_noise(
                waveform, perturb.babble(others(BABBLE_UTTERANCES), samples, generator), float(value)
            )
        case "pink":
            return perturb.add_noise(waveform, perturb.pink_noise(samples, generator), float(value))
        case "reverb":
            return perturb.reverberate(waveform, perturb.room_response(float(value), generator))
        case "telephone":
            return perturb.telephone(waveform, "gsm" if value == "gsm" else "mu-law")
        case "codec":
            return perturb.through_codec(waveform, value)  # type: ignore[arg-type]  # checked by parse_condition
        case "speed":
            return speed_perturb(waveform, float(value))
        case "lead":
            return torch.cat([torch.zeros(round(float(value) * SAMPLE_RATE)), waveform])
        case "rate":
            return perturb.at_rate(waveform, round(float(value)))
        case "gain":
            return perturb.change_gain(waveform, float(value))
    raise ValueError(f"no condition is called {condition.kind!r}")
