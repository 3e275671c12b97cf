"""AN4 (Carnegie Mellon University, 1991) in its publisher's layout.

`etc/an4_train.fileids` and `.transcription` list the utterances, `wav/` (or `audio/`) holds them as .wav, .sph or
.flac. The corpus has no development set, so its training speakers are split into four folds. Speakers whose names
differ in a final digit only (mdcs, mdcs2) may be one person and stay in one fold.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from asr_kd.corpora.corpus import balanced_folds, shuffled
from asr_kd.corpora.manifest import read_text
from asr_kd.corpora.recordings import Recording
from asr_kd.corpora.settings import corpora_root
from asr_kd.errors import CorpusError

FOLDS = 4
DEV_SPEAKERS = 8

_AUDIO_FOLDERS = ("wav", "audio")
_AUDIO_SUFFIXES = (".wav", ".sph", ".flac")
_TRANSCRIPT = re.compile(r"(?P<words>.*)\((?P<id>[^()\s]+)\)\s*")
_NOT_WORDS = re.compile(r"<[^<>\s]+>|\+\+[^+\s]+\+\+")


def find_an4(root: Path | None) -> Path:
    """Find the folder of AN4's `etc/`: `root`, `root`/an4, or the same under ASR_KD_CORPORA.

    Raises:
        CorpusError: it is in neither place.
    """
    parent = corpora_root(root)
    for folder in (parent, parent / "an4"):
        if (folder / "etc" / "an4_train.fileids").is_file():
            return folder
    raise CorpusError(
        "AN4 not found",
        where=parent,
        expected="etc/an4_train.fileids in this folder or in an4/ below it",
        remedy="Unpack an4_sphere.tar.gz there, or set corpus.root",
    )


def read_an4(folder: Path, part: Literal["train", "test"]) -> list[Recording]:
    """Read one official part, in the order of its list.

    Raises:
        CorpusError: a list is missing or malformed, an id occurs twice, or ids and transcripts do not match.
    """
    listed = _read_lines(folder / "etc" / f"an4_{part}.fileids")
    texts = _read_transcripts(folder / "etc" / f"an4_{part}.transcription")
    ids = [Path(line).name for line in listed]
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    unmatched = sorted(set(ids) ^ texts.keys())
    if repeated or unmatched:
        raise CorpusError(
            f"ids that occur twice: {', '.join(repeated[:20]) or 'none'}; ids only in one of its two lists: "
            f"{', '.join(unmatched[:20]) or 'none'} ({len(repeated)} and {len(unmatched)} in all)",
            where=folder / "etc" / f"an4_{part}.fileids",
            expected="one transcript for every file",
            remedy="Unpack the corpus again",
        )
    return [
        Recording(name, _find_audio(folder, line), texts[name], Path(line).parent.name)
        for name, line in zip(ids, listed, strict=True)
    ]


def official_test(folder: Path) -> list[Recording] | str:
    """Return the official test's recordings, or the reason why it is skipped."""
    if not (folder / "etc" / "an4_test.fileids").is_file():
        return "not present, skipped: there is no etc/an4_test.fileids"
    recordings = read_an4(folder, "test")
    if not any(recording.audio.is_file() for recording in recordings):
        return "not present, skipped: its lists are present, its audio is not"
    return recordings


def speaker_folds(recordings: Sequence[Recording], seed: int) -> list[set[str]]:
    """Return four disjoint sets of speakers with nearly equal numbers of utterances; see `balanced_folds`."""
    counts = Counter(recording.speaker for recording in recordings)
    sizes: Counter[str] = Counter()
    for speaker, count in counts.items():
        sizes[person_of(speaker)] += count
    return [
        {speaker for speaker in counts if person_of(speaker) in people} for people in balanced_folds(sizes, FOLDS, seed)
    ]


def split_speakers(
    recordings: Sequence[Recording], fold: int | Literal["none"], seed: int
) -> dict[str, list[Recording]]:
    """Split training recordings into `train`, `dev` and (with a fold) `devtest`, disjoint by speaker.

    `devtest` is the fold; `dev` are the first eight remaining speakers in the seed's order; the rest trains.

    Raises:
        CorpusError: there are too few speakers.
    """
    devtest = set() if fold == "none" else speaker_folds(recordings, seed)[fold]
    dev = _dev_speakers({recording.speaker for recording in recordings} - devtest, seed)
    train = {recording.speaker for recording in recordings} - devtest - dev
    if not train or len(dev) < DEV_SPEAKERS:
        raise CorpusError(
            f"only {len(train | dev | devtest)} speakers",
            where="AN4",
            expected="more than eight outside a fold (the corpus has 74)",
            remedy="Unpack the corpus again: most of it is missing",
        )
    sets = {"train": train, "dev": dev} | ({} if fold == "none" else {"devtest": devtest})
    return {name: [recording for recording in recordings if recording.speaker in who] for name, who in sets.items()}


def _dev_speakers(speakers: set[str], seed: int) -> set[str]:
    chosen: set[str] = set()
    for person in sorted({person_of(speaker) for speaker in speakers}, key=lambda person: shuffled(person, seed)):
        group = {speaker for speaker in speakers if person_of(speaker) == person}
        if len(chosen) + len(group) <= DEV_SPEAKERS:
            chosen |= group
    return chosen


def person_of(speaker: str) -> str:
    """Name without final digits: mdcs and mdcs2 may be one person."""
    return speaker.rstrip("0123456789") or speaker


def _read_lines(path: Path) -> list[str]:
    lines = read_text(path, "AN4's own list", "Unpack the corpus again").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _read_transcripts(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for row, line in enumerate(_read_lines(path), start=1):
        match = _TRANSCRIPT.fullmatch(line)
        if match is None or match["id"] in texts:
            raise CorpusError(
                f"row {line!r}" + (" repeats an id" if match else ""),
                where=f"{path}:{row}",
                expected="<s> WORDS </s> (utterance-id), each id once",
            )
        texts[match["id"]] = " ".join(_NOT_WORDS.sub(" ", match["words"]).split())
    return texts


def _find_audio(folder: Path, listed: str) -> Path:
    """The utterance's file, or its expected path when there is none."""
    if listed.startswith("/") or ".." in Path(listed).parts:
        raise CorpusError(f"the file id {listed!r} leads out of the corpus", where=folder / "etc", expected="a/b/name")
    candidates = [folder / audio / f"{listed}{suffix}" for audio in _AUDIO_FOLDERS for suffix in _AUDIO_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])
