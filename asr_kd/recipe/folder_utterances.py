"""The utterances of a folder of speech without sets of its own, for `asr-kd init` and `asr-kd check`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from asr_kd.corpora.folder import cut_utterances, list_folder
from asr_kd.corpora.formats.catalogue import complete, is_manifest, manifests_in, read_table
from asr_kd.corpora.librispeech import read_split
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import Recording, measure
from asr_kd.corpora.settings import LIBRISPEECH_SPLITS, FolderSettings
from asr_kd.errors import CorpusError
from asr_kd.progress import Progress


def utterances_in(folder: Path, progress: Progress) -> list[Utterance]:
    """Return the utterances of a manifest in a folder, of a part of LibriSpeech, or of audio.

    Audio may have a .txt beside each file; without transcripts it is cut where it is long. What is left out is
    reported.

    Raises:
        CorpusError: several manifests, no speech, a transcript that cannot be read, or nothing that can be used.
    """
    return _of_manifest(folder) or _of_librispeech(folder, progress) or _of_audio(folder, progress)


def recordings_in(folder: Path) -> list[Recording]:
    """Return all recordings of a folder of audio with the transcripts that `utterances_in` reads, for their check.

    Those of several splits of LibriSpeech, and files without a transcript where others have one, are among them.

    Raises:
        CorpusError: no audio, or a transcript that cannot be read.
    """
    splits = [split for split in LIBRISPEECH_SPLITS if (folder / split).is_dir()] or ["."]
    return [recording for split in splits for recording in read_split(folder, split)[0]] or _with_texts(folder)


def _of_manifest(folder: Path) -> list[Utterance] | None:
    found = manifests_in(folder) if not is_manifest(folder) else [folder]
    if not found:
        return None
    if len(found) > 1:
        raise CorpusError(
            f"holds {len(found)} manifests ({', '.join(path.name for path in found[:5])})",
            where=folder,
            expected="one manifest, or manifests named train, dev and test",
            remedy="Rename them, or write the recipe by hand: docs/guides/own-data.md",
        )
    utterances, _ = complete(read_table(found[0], "auto").recordings, "refuse")
    return utterances


def _of_librispeech(folder: Path, progress: Progress) -> list[Utterance] | None:
    """Utterances of speakers' folders with transcripts of LibriSpeech, in splits or not; None where there are none."""
    present = [split for split in LIBRISPEECH_SPLITS if (folder / split).is_dir()]
    splits = [split for split in present if split.startswith("train-")] or present or ["."]
    read = [read_split(folder, split) for split in splits]
    recordings = [recording for found, _ in read for recording in found]
    unmatched = sum(len(missing) for _, missing in read)
    if not recordings:
        return None
    if others := [split for split in present if split not in splits]:
        progress.message(f"  {', '.join(others)} left out: evaluation sets are not divided")
    if unmatched:
        progress.message(f"  {unmatched} files without transcript, or transcripts without audio, are left out")
    return _measured(recordings, folder, progress)


def _of_audio(folder: Path, progress: Progress) -> list[Utterance]:
    """Audio files, with the text of a .txt beside each where there is one."""
    recordings = _with_texts(folder)
    transcribed = [recording for recording in recordings if recording.text is not None]
    if 0 < len(transcribed) < len(recordings):
        left_out = len(recordings) - len(transcribed)
        progress.message(f"  {left_out} of {len(recordings)} files have no .txt and are left out")
    if transcribed:
        return _measured(transcribed, folder, progress)
    utterances = _measured(recordings, folder, progress)
    return cut_utterances(utterances, FolderSettings(train=[folder], dev=[folder]), progress)[0]


def _with_texts(folder: Path) -> list[Recording]:
    """Audio files, each with the text of the .txt beside it; None where there is none."""
    recordings = list_folder(folder, FolderSettings(train=[folder], dev=[folder]))
    beside = [recording.audio.with_suffix(".txt") for recording in recordings]
    return [
        replace(recording, text=_text_of(path) if path.is_file() else None)
        for recording, path in zip(recordings, beside, strict=True)
    ]


def _measured(recordings: Sequence[Recording], folder: Path, progress: Progress) -> list[Utterance]:
    utterances, excluded = measure(recordings)
    if not utterances:
        raise CorpusError(
            f"none of {len(recordings)} files can be used, such as {excluded[0].path}: {excluded[0].reason}",
            where=folder,
            expected="files of one channel that can be read",
            remedy="Correct them, or write the recipe by hand: docs/guides/own-data.md, of calls docs/guides/calls.md",
        )
    if excluded:
        progress.message(f"  {len(excluded)} files cannot be used; the first: {excluded[0].path}: {excluded[0].reason}")
    return utterances


def _text_of(path: Path) -> str:
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split())  # editors of Windows begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(
            f"cannot be read ({error})", where=path, expected="a transcript in UTF-8", remedy="Convert it, or remove it"
        ) from error
