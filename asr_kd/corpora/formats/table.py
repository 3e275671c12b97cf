"""Tables that manifests of any format are read into, and the parts that all readers and writers share."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from asr_kd.audio import ChannelPolicy
from asr_kd.corpora.manifest import Malformed, Utterance, collect_rows, read_text
from asr_kd.corpora.recordings import Exclusion, Recording

UNKNOWN_SPEAKER = "unknown"
"""Speaker of rows that name none."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Row = TypeVar("Row")


class Unfit(ValueError):
    """A valid row, with its id, that cannot be an utterance; it is listed and left out."""

    def __init__(self, reason: str, name: str = "") -> None:
        super().__init__(reason)
        self.name = name


@dataclass
class Table:
    """Rows of a manifest."""

    recordings: list[Recording] = field(default_factory=list)
    excluded: list[Exclusion] = field(default_factory=list)
    """Rows that cannot be utterances; with the manifest's path, and a reason that begins with the row."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Fields without a counterpart → number of rows."""
    files: list[Path] = field(default_factory=list)
    """Files that were read."""
    made: set[str] = field(default_factory=set)
    """Ids that the rows do not state: they are made of the names of files."""

    def drop(self, row: dict[str, Any], known: Iterable[str]) -> None:
        """Count the keys of a row that are not used."""
        self.dropped.update(key for key in row.keys() - set(known) if row[key] not in (None, "", {}, []))

    def collect(self, path: Path, rows: Iterable[tuple[int, Row]], parse: Callable[[Row], Recording]) -> None:
        """Add every row of a file that is an utterance, and list those that cannot be.

        Raises:
            CorpusError: names all rows that are malformed, or have an unusable or repeated id.
        """

        def parse_fit(numbered: tuple[int, Row]) -> Recording | None:
            number, row = numbered
            try:
                return parse(row)
            except Unfit as error:
                self.excluded.append(Exclusion(error.name or "–", path, f"row {number}: {error}"))
                return None

        expected = "rows of its format, each id once"
        numbered = ((number, (number, row)) for number, row in rows)
        self.recordings += collect_rows(numbered, parse_fit, path, expected, "Correct the manifest")


@dataclass
class Rendering:
    """A manifest as text, before anything is written."""

    texts: dict[str, str]
    """File name → content; the name is '' where the format is one file."""
    utterances: int = 0
    excluded: list[Exclusion] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Further remarks, one sentence each."""


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a text file, gzipped or not, with their numbers from 1.

    Raises:
        CorpusError: cannot be read, or is not UTF-8.
    """
    lines = read_text(path, "a manifest in UTF-8", "Check the path").split("\n")
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def finite_number(value: Any, what: str = "") -> float:
    """Return the number that a text states, with the name of its column in errors.

    Raises:
        Malformed: not a number, or not a finite one.
    """
    stated = f"{what} is {value!r}, not" if what else f"{value!r} is not"
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise Malformed(f"{stated} a number") from error
    if not -1e12 < number < 1e12:
        raise Malformed(f"{stated} a finite number")
    return number


def channel_policy(written: Any) -> ChannelPolicy | None:
    """Return the policy that writers of formats without one add to a row; None for anything else."""
    policies: tuple[ChannelPolicy, ...] = ("first", "second", "mean")
    return next((policy for policy in policies if policy == written), None)


def channel_notes(utterances: Iterable[Utterance], tool: str) -> list[str]:
    """Return what to note about policies for channels that only this project reads back."""
    count = sum(utterance.channels != "refuse" for utterance in utterances)
    return [f"{count} rows state which channels are read: asr-kd reads that back, {tool} ignores it"] if count else []


def audio_path(written: str, base: Path, name: str = "") -> Path:
    """Return the path of a row's audio; relative paths start at `base`. `name` is the row's id.

    Raises:
        Malformed: not a path.
        Unfit: an address on the network.
    """
    if not written.strip() or "\0" in written:
        raise Malformed(f"the audio is {written!r}, not a path")
    if _URL.match(written):
        raise Unfit(f"its audio is at {written}, not in a file here", name)
    return base / written


_LONGEST = 120
_UNUSABLE = re.compile(r"[\s\\/\x00-\x1f\x7f]+")


def name_of(relative: Path) -> str:
    """Return an utterance id of a file's path below a folder: a/b c.wav gives a-b_c."""
    written = "-".join((*relative.parts[:-1], relative.stem))
    name = "".join(letter if letter.isprintable() else "_" for letter in _UNUSABLE.sub("_", written))
    if len(name) <= _LONGEST:
        return name
    return f"{name[-_LONGEST:]}-{hashlib.sha256(written.encode(errors='replace')).hexdigest()[:8]}"


def segment_name(name: str, start: float) -> str:
    """Return the id of a segment that starts `start` seconds into the file; with milliseconds, so that it sorts."""
    return f"{name}-{round(1000 * start):08d}"


def names_of_files(paths: Iterable[Path]) -> dict[Path, str]:
    """Return a name per file: its stem if all stems differ, else its path below the common folder."""
    files = list(dict.fromkeys(paths))
    names = {path: name_of(Path(path.name)) for path in files}
    if len(set(names.values())) == len(files):
        return names
    shared = os.path.commonpath([path.absolute().parent for path in files])
    return {path: name_of(path.absolute().relative_to(shared)) for path in files}


def recording_names(utterances: Sequence[Utterance]) -> dict[Path, str]:
    """Return a name per file: the id of its only utterance, else a name of the path."""
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
