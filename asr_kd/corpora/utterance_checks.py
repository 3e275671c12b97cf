"""Check the utterances of a corpus: ids, transcripts and audio. Problems are listed; nothing is repaired."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr_kd.audio import DURATION_TOLERANCE_SECONDS, SAMPLE_RATE, ChannelPolicy, length_problem, probe, read_audio
from asr_kd.corpora.levels import Level, level_lines, level_of
from asr_kd.corpora.manifest import Utterance, hours, id_problem
from asr_kd.corpora.recordings import Exclusion
from asr_kd.errors import AudioError
from asr_kd.text.normalize import Normalizer, letters_beyond_english, normalize
from asr_kd.text.vocabulary import WORD_SEPARATOR, Vocabulary, min_ctc_frames

THREADS = 4
"""Files decoded at a time; libsndfile releases the interpreter lock."""

NOTES = frozenset({"other sample rate", "no transcript", "audio used twice", "letters of another script"})
"""Kinds that do no harm; every other kind is a problem."""

OUTSIDE_VOCABULARY = "characters outside the vocabulary"

FRAME_SHIFT_MS = 40.0
"""Duration of the models' output frames."""

LOOKAHEAD_MS = 30
"""Audio that the models' two unpadded convolutions read beyond an encoder frame."""


@dataclass(frozen=True, slots=True)
class CheckRow:
    """One finding about one utterance."""

    id: str
    path: Path
    problem: str  # the kind, for example "damaged audio"
    detail: str


@dataclass(frozen=True)
class CheckReport:
    """All findings, in the utterances' order."""

    rows: list[CheckRow]
    utterances: int
    hours: float
    speakers: int
    decoded: bool
    levels: Mapping[str, Sequence[Level]] = field(default_factory=dict)
    """Set → levels of its recordings that could be decoded."""

    @property
    def problems(self) -> list[CheckRow]:
        """Rows that must be repaired or left out before training."""
        return [row for row in self.rows if row.problem not in NOTES]

    @property
    def notes(self) -> list[CheckRow]:
        """Rows that do no harm."""
        return [row for row in self.rows if row.problem in NOTES]

    @property
    def counts(self) -> Counter[str]:
        """Rows by kind."""
        return Counter(row.problem for row in self.rows)

    @property
    def ok(self) -> bool:
        """Whether there are utterances, without problems."""
        return self.utterances > 0 and not self.problems

    def including(self, excluded: Sequence[Exclusion], problem: str = "left out by prepare") -> "CheckReport":
        """Return the report with utterances that prepare, or reading the manifest, has excluded."""
        rows = [CheckRow(item.id, item.path, problem, item.reason) for item in excluded]
        return replace(self, rows=rows + self.rows)

    def lines(self, limit: int = 20) -> list[str]:
        """Return the report as text: totals, counts by kind, and at most `limit` rows of each kind."""
        how = "decoded and compared" if self.decoded else "headers only; damage inside the files is not found"
        lines = [f"{self.utterances} utterances, {self.hours:.2f} h, {self.speakers} speakers ({how})"]
        for kind, count in sorted(self.counts.items(), key=lambda item: (item[0] in NOTES, -item[1], item[0])):
            lines.append(f"{'note' if kind in NOTES else 'PROBLEM'}: {kind}: {count}")
            of_kind = [row for row in self.rows if row.problem == kind]
            if count > 1 and count >= self.utterances and len({row.detail for row in of_kind}) == 1:
                lines[-1] += f", every utterance: {of_kind[0].detail}"
                continue
            lines += [f"  {row.id}  {row.path}  {row.detail}" for row in of_kind[:limit]]
            if count > limit:
                lines.append(f"  … and {count - limit} more")
        lines += level_lines(self.levels)
        if not self.utterances:
            lines.append("PROBLEM: there are no utterances")
        elif not self.problems:
            lines.append("No problems found.")
        else:
            count, affected = len(self.problems), len({row.id for row in self.problems})
            found = f"{count} problem{'s'[: count > 1]} in {affected} utterance{'s'[: affected > 1]}"
            lines.append(f"{found}. Repair these files or leave them out.")
            if OUTSIDE_VOCABULARY in self.counts:
                lines.append(
                    "Characters outside the vocabulary can be added to it: vocabulary.alphabet names all characters of "
                    "a vocabulary of characters. Without it they are those of the training transcripts."
                )
        return lines


def check_utterances(
    utterances: Sequence[Utterance],
    vocabulary: Vocabulary | None,
    normalizer: Normalizer,
    *,
    frame_shift_ms: float = FRAME_SHIFT_MS,
    read: bool = True,
    sets: Mapping[str, Sequence[Utterance]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check the id, the transcript and the audio of every utterance.

    Args:
        utterances: of a manifest or a corpus.
        vocabulary: symbols that transcripts may hold; None skips that comparison.
        normalizer: applied to transcripts before training.
        frame_shift_ms: duration of a model's output frame.
        read: also decode the audio, which finds damage inside files.
        sets: utterances by set, whose levels are compared with those of the first; None: one set.
        progress: called with (utterances done, utterances in all).
    """
    rows = list(_repeated(utterances))
    levels: dict[str, Level] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda utterance: list(_audio_rows(utterance, read, levels)), utterances)
        for done, (utterance, audio_rows) in enumerate(zip(utterances, found, strict=True), start=1):
            problem = id_problem(utterance.id)
            if problem:
                rows.append(CheckRow(utterance.id[:60], utterance.audio, "unusable id", f"the id {problem}"))
            rows += audio_rows
            rows += _text_rows(utterance, vocabulary, normalizer, frame_shift_ms)
            if progress is not None:
                progress(done, len(utterances))
    speakers = {utterance.speaker for utterance in utterances}
    total_hours = hours(utterance for utterance in utterances if math.isfinite(utterance.duration))
    by_set = {
        name: [levels[utterance.id] for utterance in members if utterance.id in levels]
        for name, members in (sets or {"recordings": utterances}).items()
    }
    return CheckReport(rows, len(utterances), total_hours, len(speakers), read, by_set)


def frames_available(duration: float, frame_shift_ms: float) -> int:
    """Output frames of so many seconds; equal to the models' own count at 40 ms."""
    feature_frames = math.floor(duration * 100 + 0.5)
    return max(math.floor((10 * feature_frames - LOOKAHEAD_MS) / frame_shift_ms), 0)


def untrainable(utterances: Iterable[Utterance], vocabulary: Vocabulary, normalizer: Normalizer) -> list[Exclusion]:
    """Return the transcribed utterances that training would leave out for their transcript, with the reason."""
    transcribed = [utterance for utterance in utterances if utterance.text is not None]
    rows = [row for each in transcribed for row in _text_rows(each, vocabulary, normalizer, FRAME_SHIFT_MS)]
    problems = {row.id: row for row in reversed(rows) if row.problem not in NOTES}
    return [Exclusion(row.id, row.path, f"{row.problem}: {row.detail}") for row in reversed(problems.values())]


def _repeated(utterances: Sequence[Utterance]) -> Iterator[CheckRow]:
    rows_of_id: dict[str, int] = {}
    shared = _overlapping(utterances)
    for number, utterance in enumerate(utterances, start=1):
        first = rows_of_id.setdefault(utterance.id, number)
        if first != number:
            yield CheckRow(utterance.id, utterance.audio, "duplicate id", f"rows {first} and {number}")
        if number in shared:
            yield CheckRow(utterance.id, utterance.audio, "audio used twice", f"rows {shared[number]} and {number}")


def _overlapping(utterances: Sequence[Utterance]) -> dict[int, int]:
    """Row → an earlier row that shares its audio, or some of it; rows are counted from 1."""
    of_file: dict[tuple[Path, bool], list[int]] = {}
    for number, utterance in enumerate(utterances, start=1):
        of_file.setdefault((utterance.audio, utterance.channels == "second"), []).append(number)
    found: dict[int, int] = {}
    for rows in of_file.values():
        furthest = 0  # the row that reaches furthest into the file
        for row in sorted(rows, key=lambda row: (utterances[row - 1].start, row)):
            this, other = utterances[row - 1], utterances[furthest - 1]
            # Two whole files are one and the same; a segment begins before another of its file has ended.
            if furthest and ((this.whole and other.whole) or this.start < other.end - DURATION_TOLERANCE_SECONDS):
                found[max(row, furthest)] = min(row, furthest)
            if not furthest or this.end > other.end:
                furthest = row
    return found


def _audio_rows(utterance: Utterance, read: bool, levels: dict[str, Level]) -> Iterator[CheckRow]:
    def row(problem: str, detail: str) -> CheckRow:
        return CheckRow(utterance.id, utterance.audio, problem, detail)

    try:
        info = probe(utterance.audio)
    except AudioError as error:
        yield row(error.problem, error.found)
        return
    if info.channels > 1 and utterance.channels == "refuse":
        yield row("several channels", f"{info.channels} channels, expected one")
    if info.sample_rate != SAMPLE_RATE:
        yield row("other sample rate", f"{info.sample_rate} Hz, will be resampled to {SAMPLE_RATE} Hz")
    start = None if utterance.whole else utterance.start
    wrong_duration = length_problem(info, utterance.duration, start)
    if wrong_duration and info.num_samples:
        yield row("wrong duration", wrong_duration)
    if not read:
        if not info.num_samples:
            yield row("zero length", "holds no samples")
    elif start is None or not wrong_duration:  # decoding also finds whether a file is empty or cut off near its start
        try:
            duration = None if start is None else utterance.duration
            policy: ChannelPolicy = "first" if utterance.channels == "refuse" else utterance.channels
            waveform = read_audio(utterance.audio, channels=policy, start=start, duration=duration)
            levels[utterance.id] = level_of(waveform)
        except AudioError as error:
            yield row(error.problem, error.found)


def _text_rows(
    utterance: Utterance, vocabulary: Vocabulary | None, normalizer: Normalizer, frame_shift_ms: float
) -> Iterator[CheckRow]:
    def row(problem: str, detail: str) -> CheckRow:
        return CheckRow(utterance.id, utterance.audio, problem, detail)

    if utterance.text is None:
        yield row("no transcript", "usable for distillation without transcripts only")
        return
    text = normalize(utterance.text, normalizer)
    if not text.split():
        yield row("empty transcript", f"{utterance.text[:60]!r}")
        return
    beyond = letters_beyond_english([utterance.text]) if normalizer == "librispeech" else ""
    if beyond:
        yield row("letters of another script", f"{beyond[:20]}: the normalizer librispeech is for English; use unicode")
    unknown = vocabulary.unknown_characters(text) if vocabulary is not None else []
    if unknown:
        yield row(OUTSIDE_VOCABULARY, f"{' '.join(map(repr, unknown))} in {text[:60]!r}")
    symbols: Sequence[object] = WORD_SEPARATOR.join(text.split())
    if vocabulary is not None and not unknown:
        symbols = vocabulary.encode(text)
    if math.isfinite(utterance.duration):
        needed, available = min_ctc_frames(symbols), frames_available(utterance.duration, frame_shift_ms)
        if needed > available:
            yield row(
                "transcript too long for CTC",
                f"{len(symbols)} tokens need {needed} frames, {utterance.duration:.2f} s give {available}",
            )
