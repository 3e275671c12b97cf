"""Names for what has none: utterances known by their file only, recordings that many utterances lie in."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr_kd.corpora.manifest import Utterance

_LONGEST = 120
_UNUSABLE = re.compile(r"[\s\\/\x00-\x1f\x7f]+")


def name_of(relative: Path) -> str:
    """An utterance id from a file's path below some folder: a/b c.wav gives a-b_c."""
    written = "-".join((*relative.parts[:-1], relative.stem))
    name = "".join(letter if letter.isprintable() else "_" for letter in _UNUSABLE.sub("_", written))
    if len(name) <= _LONGEST:
        return name
    return f"{name[-_LONGEST:]}-{hashlib.sha256(written.encode(errors='replace')).hexdigest()[:8]}"


def segment_name(name: str, start: float) -> str:
    """The id of a segment that begins `start` seconds into the file of this name: milliseconds, so that it sorts."""
    return f"{name}-{round(1000 * start):08d}"


def names_of_files(paths: Iterable[Path]) -> dict[Path, str]:
    """A name for every file: its stem where that tells them apart, else its path below the folder they share."""
    files = list(dict.fromkeys(paths))
    names = {path: name_of(Path(path.name)) for path in files}
    if len(set(names.values())) == len(files):
        return names
    shared = os.path.commonpath([path.absolute().parent for path in files])
    return {path: name_of(path.absolute().relative_to(shared)) for path in files}


def recording_names(utterances: Sequence[Utterance]) -> dict[Path, str]:
    """A name for every file: the utterance's id where it is the file's only one, else a name from the path."""
    uses = Counter(utterance.audio for utterance in utterances)
    names = {u.audio: u.id for u in utterances if u.whole and uses[u.audio] == 1}
    taken = set(names.values())
    for path, name in names_of_files(path for path in uses if path not in names).items():
        free, number = name, 1
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        taken.add(free)
        names[path] = free
    return names
