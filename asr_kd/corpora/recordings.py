"""Recordings that a corpus lists, and utterances of them: headers are read, unusable recordings are listed."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from asr_kd.audio import AudioInfo, ChannelPolicy, length_problem, probe, read_audio
from asr_kd.corpora.manifest import Utterance, list_some
from asr_kd.errors import AudioError, CorpusError
from asr_kd.progress import SILENT, Progress

THREADS = 8
"""Headers are read in parallel, because most of the time is waiting for the disk."""


@dataclass(frozen=True, slots=True)
class Recording:
    """An utterance as a corpus lists it; its audio was not opened yet."""

    id: str
    audio: Path
    text: str | None
    speaker: str
    duration: float | None = None  # seconds; None: not stated
    start: float = 0.0  # seconds into the file
    whole: bool = True  # as `Utterance.whole`
    channels: ChannelPolicy | None = None  # None: the corpus' own policy

    def utterance(self, duration: float, channels: ChannelPolicy) -> Utterance:
        """Return it with a duration in seconds, and a policy for channels where it has none of its own."""
        policy = self.channels or channels
        return Utterance(
            self.id, self.audio.absolute(), duration, self.text, self.speaker, policy, self.start, self.whole
        )


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An utterance that a corpus lists and that cannot be used."""

    id: str
    path: Path
    reason: str

    @classmethod
    def of(cls, utterance: Utterance, reason: str) -> "Exclusion":
        """Return the exclusion of an utterance."""
        return cls(utterance.id, utterance.audio, reason)


def measure(
    recordings: Sequence[Recording], channels: ChannelPolicy = "refuse"
) -> tuple[list[Utterance], list[Exclusion]]:
    """Read every file's header for durations that are not stated, and compare those that are.

    Files that are missing, unreadable, empty or of another length are excluded.
    """
    infos = probe_all(recording.audio for recording in recordings)
    measured = [_measure_one(recording, infos[recording.audio], channels) for recording in recordings]
    utterances = [found for found in measured if isinstance(found, Utterance)]
    return utterances, [found for found in measured if isinstance(found, Exclusion)]


def probe_all(paths: Iterable[Path]) -> dict[Path, AudioInfo | AudioError]:
    """Read the header of every file once; an error where that fails."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(unique, pool.map(_probe_or_error, unique), strict=True))


def _probe_or_error(path: Path) -> AudioInfo | AudioError:
    try:
        return probe(path)
    except AudioError as error:
        return error


def _measure_one(recording: Recording, info: AudioInfo | AudioError, channels: ChannelPolicy) -> Utterance | Exclusion:
    if isinstance(info, AudioError):
        return Exclusion(recording.id, recording.audio, info.found)
    if info.duration <= 0:
        return Exclusion(recording.id, recording.audio, "holds no samples")
    if info.channels > 1 and (recording.channels or channels) == "refuse":
        reason = (
            f"has {info.channels} channels: set corpus.channels to first, second, mean or, for folders of calls, split"
        )
        return Exclusion(recording.id, recording.audio, reason)
    duration = info.duration - recording.start if recording.duration is None else recording.duration
    whole = recording.whole and recording.start == 0
    problem = length_problem(info, duration, None if whole else recording.start)
    return Exclusion(recording.id, recording.audio, problem) if problem else recording.utterance(duration, channels)


def read_utterance(utterance: Utterance) -> Tensor:
    """Read an utterance's samples, float32 [S] at 16 kHz, and compare them with the duration of its manifest.

    Raises as `asr_kd.audio.read_audio`.
    """
    return read_audio(
        utterance.audio,
        channels=utterance.channels,
        duration=utterance.duration,
        start=None if utterance.whole else utterance.start,
    )


def readable_utterances(
    utterances: Iterable[Utterance], progress: Progress = SILENT
) -> Iterator[tuple[Utterance, Tensor]]:
    """Yield utterances with their samples, as `read_utterance`; damaged ones are left out, each with a message."""
    for utterance in utterances:
        try:
            waveform = read_utterance(utterance)
        except AudioError as error:
            progress.message(f"  {utterance.id} left out: {error}")
        else:
            yield utterance, waveform


def refuse_too_many(
    exclusions: Iterable[Exclusion],
    listed: int,
    max_share: float,
    where: str | Path,
    remedy: str = "Unpack the corpus again, or raise corpus.max_excluded_share to go on without them",
    expected: str = "missing or unreadable",
) -> None:
    """Refuse a corpus of which more than a share is unusable.

    Raises:
        CorpusError: names the first files and counts the others.
    """
    problems = list(exclusions)
    if len(problems) <= max_share * listed:
        return
    named = list_some(f"{problem.path}: {problem.reason}" for problem in problems)
    raise CorpusError(
        f"{len(problems)} of {listed} utterances cannot be used: {named}",
        where=where,
        expected=f"at most a share of {max_share:g} {expected}",
        remedy=remedy,
    )
