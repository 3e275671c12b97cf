"""LibriSpeech's layout: SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt beside its audio files.

Any subset of splits, any audio format that the project reads.
"""

from collections.abc import Sequence
from pathlib import Path

from asr_kd.corpora.recordings import Exclusion, Recording
from asr_kd.corpora.settings import LIBRISPEECH_SPLITS, corpora_root
from asr_kd.errors import CorpusError

AUDIO_SUFFIXES = (".flac", ".wav", ".ogg", ".opus", ".mp3")
"""Of several files with one name, the first of these is taken."""

_TRANSCRIPTS = ".trans.txt"


def find_librispeech(root: Path | None) -> Path:
    """Find the folder of the splits: `root`, `root`/LibriSpeech (in any case), or the same under ASR_KD_CORPORA.

    Raises:
        CorpusError: neither holds any split.
    """
    parent = corpora_root(root)
    below = sorted(path for path in parent.iterdir() if path.name.lower() == "librispeech")
    for folder in (parent, *below):
        if present_splits(folder):
            return folder
    raise CorpusError(
        "LibriSpeech not found",
        where=parent,
        expected="folders such as train-clean-100 in it or in LibriSpeech/ below it",
        remedy="Unpack the splits there, or set corpus.root",
    )


def present_splits(folder: Path) -> list[str]:
    """Return the names of the official splits in a folder."""
    return [split for split in LIBRISPEECH_SPLITS if (folder / split).is_dir()]


def require_splits(
    folder: Path, splits: Sequence[str], remedy: str = "Unpack the missing splits, or name those that are present"
) -> None:
    """Require splits.

    Raises:
        CorpusError: splits are missing; names these, and those that are present.
    """
    missing = [split for split in splits if not (folder / split).is_dir()]
    if missing:
        here = ", ".join(present_splits(folder)) or "none"
        raise CorpusError(
            f"{', '.join(missing)} not found",
            where=folder,
            expected=f"a folder for each split that is needed (found: {here})",
            remedy=remedy,
        )


def read_split(folder: Path, split: str) -> tuple[list[Recording], list[Exclusion]]:
    """Read a split, ordered by id, and list transcripts without audio and audio without transcript.

    Raises:
        CorpusError: a transcript file cannot be read or gives an id twice.
    """
    recordings: list[Recording] = []
    unmatched: list[Exclusion] = []
    for chapter in sorted(path for path in (folder / split).glob("*/*") if path.is_dir()):
        audio = _audio_files(chapter)
        texts = _read_transcripts(chapter)
        for utterance_id in sorted(audio.keys() | texts.keys()):
            if utterance_id not in audio:
                expected = chapter / f"{utterance_id}{AUDIO_SUFFIXES[0]}"
                unmatched.append(Exclusion(utterance_id, expected, "has a transcript but no audio"))
            elif utterance_id not in texts:
                unmatched.append(Exclusion(utterance_id, audio[utterance_id], "has audio but no transcript"))
            else:
                text = texts[utterance_id]
                recordings.append(Recording(utterance_id, audio[utterance_id], text, chapter.parent.name))
    return sorted(recordings, key=lambda recording: recording.id), unmatched


def _audio_files(chapter: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in chapter.iterdir():
        suffix = path.suffix.lower()
        if suffix not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        known = files.get(path.stem)
        if known is None or AUDIO_SUFFIXES.index(suffix) < AUDIO_SUFFIXES.index(known.suffix.lower()):
            files[path.stem] = path
    return files


def _read_transcripts(chapter: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in sorted(chapter.glob(f"*{_TRANSCRIPTS}")):
        if path.name.startswith("."):
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(
                f"cannot be read ({error})",
                where=path,
                expected="lines of an id and its words",
                remedy="Unpack the split again",
            ) from error
        for row, line in enumerate(lines, start=1):
            utterance_id, _, text = line.strip().partition(" ")
            if utterance_id in texts:
                raise CorpusError(
                    f"the id {utterance_id!r} occurs twice", where=f"{path}:{row}", expected="each id once in a chapter"
                )
            if utterance_id:
                texts[utterance_id] = " ".join(text.split())
    return texts
