"""Folders of untranscribed audio: list files and speakers, and cut long files into segments at quiet points."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from asr_kd.audio import SAMPLE_RATE, ChannelPolicy, read_audio
from asr_kd.corpora.formats.table import name_of, segment_name
from asr_kd.corpora.manifest import Utterance, list_some
from asr_kd.corpora.recordings import Exclusion, Recording, probe_all
from asr_kd.corpora.settings import AudioFolders
from asr_kd.errors import AudioError, CorpusError
from asr_kd.files import printable
from asr_kd.progress import SILENT, Progress

THREADS = 4
"""Files cut at a time; libsndfile releases the interpreter lock."""

_NOT_SEARCHED = ("lost+found",)  # of a file system, readable for root alone

SIDES: tuple[ChannelPolicy, ChannelPolicy] = ("first", "second")
"""Channels of a call, one a side."""

GRID_SECONDS = 0.01
"""Pieces begin and end on this grid: the features' frames."""

QUIET_FRAMES = 10
"""A cut goes through the middle of the quietest 0.1 s, in frames of the grid."""


def audio_files(folder: Path, extensions: Sequence[str]) -> list[Path]:
    """Return the audio files below a folder at any depth, sorted; hidden files and folders are skipped.

    Links to folders are followed, but no folder is searched twice, and none that holds this one.

    Raises:
        CorpusError: no such folder, one that cannot be read, or names of audio files that are not UTF-8.
    """
    if not folder.is_dir():
        raise CorpusError("no such folder", where=folder, expected="a folder of audio files")
    found: list[Path] = []
    root, searched = folder.resolve(), set[Path]()
    waiting = [folder]
    while waiting:
        for parent, folders, names in os.walk(waiting.pop(0), onerror=_refuse_unreadable):
            here, real = Path(parent), Path(parent).resolve()
            if real in searched or (real != root and root.is_relative_to(real)):
                folders.clear()
                continue
            searched.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_SEARCHED)
            waiting += [here / name for name in folders if (here / name).is_symlink()]
            found += [here / name for name in names if not name.startswith(".")]
    audio = sorted(path for path in found if path.suffix.lower() in extensions)
    undecodable = [path for path in audio if printable(path) != str(path)]
    if undecodable:
        raise CorpusError(
            f"{len(undecodable)} names of files or folders are not UTF-8: {list_some(map(printable, undecodable))}",
            where=printable(folder),
            expected="names in UTF-8, which manifests are written in",
            remedy="Rename them, for example with convmv -f latin1 -t utf8",
        )
    return audio


def _refuse_unreadable(error: OSError) -> None:
    raise CorpusError(
        f"cannot be searched ({error.strerror})",
        where=str(error.filename),
        expected="a folder that can be read",
        remedy="Change its permissions, or move it elsewhere",
    ) from error


def list_folder(folder: Path, settings: AudioFolders) -> list[Recording]:
    """Return a recording per file, or per side of a call; its id is the path, its speaker the first sub-folder.

    Raises:
        CorpusError: no such folder, or no audio in it.
    """
    files = audio_files(folder, settings.extensions)
    if not files:
        raise CorpusError("holds no audio", where=folder, expected=f"files named {', '.join(settings.extensions)}")
    recordings = []
    for path in files:
        relative = path.relative_to(folder)
        in_folder = settings.speakers == "folders" and len(relative.parts) > 1
        speaker = relative.parts[0] if in_folder else folder.absolute().name
        recordings.append(Recording(name_of(relative), path, None, speaker))
    return split_sides(recordings) if settings.channels == "split" else recordings


def split_sides(recordings: Sequence[Recording]) -> list[Recording]:
    """Return a recording for each channel of files with two: -ch1 and -ch2 are added to its id and its speaker."""
    infos = probe_all(recording.audio for recording in recordings)
    found: list[Recording] = []
    for recording in recordings:
        info = infos[recording.audio]
        if isinstance(info, AudioError) or info.channels != 2:
            found.append(recording)  # of one channel, or excluded when it is measured
            continue
        for number, side in enumerate(SIDES, start=1):
            name, speaker = f"{recording.id}-ch{number}", f"{recording.speaker}-ch{number}"
            found.append(replace(recording, id=name, speaker=speaker, channels=side))
    return found


def cut_utterances(
    utterances: Sequence[Utterance], settings: AudioFolders, progress: Progress = SILENT
) -> tuple[list[Utterance], list[Exclusion]]:
    """Cut utterances longer than `max_seconds`, and exclude those shorter than `min_seconds` or damaged at a cut."""
    pieces: list[Utterance] = []
    excluded: list[Exclusion] = []
    cut = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for done, found in enumerate(pool.map(partial(_pieces_or_reason, settings=settings), utterances), start=1):
            if isinstance(found, Exclusion):
                excluded.append(found)
            else:
                pieces += found
                cut += len(found) > 1
            progress.update("cut long files", done, len(utterances), "files")
    if cut:
        progress.message(
            f"  {cut} files longer than {settings.max_seconds:g} s are cut at their quietest points: "
            f"{len(pieces)} utterances of {len(utterances) - len(excluded)} files"
        )
    return pieces, excluded


def _pieces_or_reason(utterance: Utterance, settings: AudioFolders) -> list[Utterance] | Exclusion:
    if utterance.duration < settings.min_seconds:
        reason = f"lasts {utterance.duration:.3f} s, less than min_seconds ({settings.min_seconds:g})"
        return Exclusion(utterance.id, utterance.audio, reason)
    try:
        starts = [0.0, *cut_points(utterance, settings)]
    except AudioError as error:
        return Exclusion(utterance.id, utterance.audio, error.found)
    if len(starts) == 1:
        return [utterance]
    ends = [*starts[1:], utterance.duration]
    return [
        replace(
            utterance, id=segment_name(utterance.id, start), start=start, duration=round(end - start, 9), whole=False
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def cut_points(utterance: Utterance, settings: AudioFolders) -> list[float]:
    """Return where a file is cut, seconds from its start; empty when it is short enough.

    Each cut lies within `cut_window_seconds` before the piece would become too long; the last two pieces share what is
    left, so that none is very short. Only these windows are read.

    Raises:
        AudioError: a window is damaged.
    """
    points: list[float] = []
    begin, longest, window = 0.0, settings.max_seconds, settings.cut_window_seconds
    while (left := utterance.duration - begin) > longest:
        latest = begin + (longest if left >= 2 * longest - window else (left + window) / 2)
        begin = _quietest(utterance, max(latest - window, 0.0), window)
        points.append(begin)
    return points


def _quietest(utterance: Utterance, start: float, seconds: float) -> float:
    """The middle of the quietest part from `start` on, on the grid, seconds from the start of the file."""
    start = math.ceil(start / GRID_SECONDS - 1e-6) * GRID_SECONDS
    samples = read_audio(utterance.audio, channels=utterance.channels, start=start, duration=seconds).numpy()
    length = round(GRID_SECONDS * SAMPLE_RATE)
    energy = np.square(samples[: len(samples) // length * length].reshape(-1, length), dtype=np.float64).sum(1)
    stretches = np.convolve(energy, np.ones(QUIET_FRAMES), mode="valid")
    middle = int(stretches.argmin()) + QUIET_FRAMES // 2
    return round(start + middle * GRID_SECONDS, 2)
