"""Utterances through all systems, batch by batch, so that they hear the same samples. Knows nothing of scores.

Shapes: S samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import AudioError, EvaluationError
from asr_kd.evaluation.results import Excluded
from asr_kd.evaluation.systems import Recognizer

Change = Callable[[Utterance, Tensor], Tensor]
"""What happens to a waveform [S] before anyone hears it."""

Texts = Mapping[str, Mapping[str, str]]
"""System's key → utterance id → what it wrote."""

Report = Callable[[int], None]
"""Called with the utterances that are done."""


class SystemOutputs(NamedTuple):
    """What was transcribed."""

    texts: dict[str, dict[str, str]]  # system's key → utterance id → text
    excluded: list[Excluded]  # utterances whose audio is damaged


def ask(
    recognizers: Mapping[str, Recognizer],
    utterances: Sequence[Utterance],
    batch_seconds: float,
    *,
    change: Change | None = None,
    known: Texts | None = None,
    report: Report = lambda done: None,
) -> SystemOutputs:
    """Transcribe every utterance with every system.

    Args:
        recognizers: by their system's key.
        batch_seconds: audio handed to a system at once, padding included.
        change: applied to each waveform; None leaves them as they are.
        known: what systems wrote of these very waveforms before; they are not asked again.

    Raises:
        EvaluationError: a system gives another number of transcripts than it was given waveforms.
    """
    found = SystemOutputs({key: {} for key in recognizers}, [])
    done = 0
    for batch in _batches(utterances, batch_seconds):
        waveforms = _read(batch, change, found.excluded)
        for key, recognizer in recognizers.items() if waveforms else ():
            before = (known or {}).get(key, {})
            if waveforms.keys() <= before.keys():
                found.texts[key] |= {utterance_id: before[utterance_id] for utterance_id in waveforms}
                continue
            texts = recognizer.transcribe(list(waveforms.values()))
            if len(texts) != len(waveforms):
                raise EvaluationError(
                    f"gave {len(texts)} transcripts for {len(waveforms)} waveforms", where=key, expected="one each"
                )
            found.texts[key] |= dict(zip(waveforms, texts, strict=True))
        done += len(batch)
        report(done)
    return found


def spread(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """At most `count` utterances at equal steps from the shortest to the longest."""
    by_duration = sorted(utterances, key=lambda utterance: (utterance.duration, utterance.id))
    if count >= len(by_duration):
        return by_duration
    return [by_duration[(2 * index + 1) * len(by_duration) // (2 * count)] for index in range(count)]


def _read(batch: Sequence[Utterance], change: Change | None, excluded: list[Excluded]) -> dict[str, Tensor]:
    """Utterance id → waveform; damaged ones go to `excluded` instead."""
    waveforms = {}
    for utterance in batch:
        try:
            waveform = read_utterance(utterance)
        except AudioError as error:
            excluded.append(Excluded(utterance.id, str(utterance.audio), str(error)))
            continue
        waveforms[utterance.id] = change(utterance, waveform) if change is not None else waveform
    return waveforms


def _batches(utterances: Sequence[Utterance], batch_seconds: float) -> Iterator[list[Utterance]]:
    """Utterances of similar length, longest first, up to `batch_seconds` with their padding."""
    batch: list[Utterance] = []
    for utterance in sorted(utterances, key=lambda utterance: (-utterance.duration, utterance.id)):
        if batch and (len(batch) + 1) * batch[0].duration > batch_seconds:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch
