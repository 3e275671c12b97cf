"""From what a corpus lists to what is really there: durations are read, and what cannot be used is listed.

Knows nothing of any corpus' layout.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from asr_kd.audio import ChannelPolicy, probe, read_audio
from asr_kd.corpora.manifest import LISTED_AT_MOST, Utterance
from asr_kd.errors import AudioError, CorpusError

THREADS = 8
"""Headers are read in parallel: the time goes into waiting for the disk."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a corpus lists: an utterance whose audio nobody has looked at."""

    id: str
    audio: Path
    text: str | None
    speaker: str


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An utterance that a corpus lists and that cannot be used."""

    id: str
    path: Path
    reason: str


def measure(
    recordings: Sequence[Recording], channels: ChannelPolicy = "refuse"
) -> tuple[list[Utterance], list[Exclusion]]:
    """Read every duration from its header; files that are missing, unreadable or empty are told apart."""
    with ThreadPoolExecutor(THREADS) as pool:
        measured = list(pool.map(partial(_measure_one, channels=channels), recordings))
    utterances = [found for found in measured if isinstance(found, Utterance)]
    return utterances, [found for found in measured if isinstance(found, Exclusion)]


def _measure_one(recording: Recording, channels: ChannelPolicy) -> Utterance | Exclusion:
    try:
        duration = probe(recording.audio).duration
    except AudioError as error:
        return Exclusion(recording.id, recording.audio, error.found)
    if duration <= 0:
        return Exclusion(recording.id, recording.audio, "holds no samples")
    return Utterance(recording.id, recording.audio.absolute(), duration, recording.text, recording.speaker, channels)


def read_utterance(utterance: Utterance) -> Tensor:
    """An utterance's samples, float32 [S] at 16 kHz, compared with the duration that its manifest states.

    Raises:
        AudioError: as `asr_kd.audio.read_audio`.
    """
    return read_audio(utterance.audio, channels=utterance.channels, duration=utterance.duration)


def refuse_too_many(exclusions: Iterable[Exclusion], listed: int, max_share: float, where: Path) -> None:
    """Stop when more than a share of what a corpus lists cannot be used.

    Raises:
        CorpusError: names the files, the first of them spelt out.
    """
    problems = list(exclusions)
    if len(problems) <= max_share * listed:
        return
    named = "; ".join(f"{problem.path}: {problem.reason}" for problem in problems[:LISTED_AT_MOST])
    more = f"; and {len(problems) - LISTED_AT_MOST} more" if len(problems) > LISTED_AT_MOST else ""
    raise CorpusError(
        f"{len(problems)} of {listed} utterances cannot be used: {named}{more}",
        where=where,
        expected=f"at most a share of {max_share:g} missing or unreadable",
        remedy="Unpack the corpus again, or raise corpus.max_excluded_share to go on without them",
    )
