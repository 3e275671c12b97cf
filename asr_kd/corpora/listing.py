"""From what a corpus lists, by set, to utterances that are there: what prepare does with every corpus.

Knows no corpus and no format.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr_kd.audio import ChannelPolicy
from asr_kd.corpora.formats.catalogue import read_table
from asr_kd.corpora.librispeech import read_split
from asr_kd.corpora.manifest import Utterance, id_problem
from asr_kd.corpora.recordings import Exclusion, Recording, measure, refuse_too_many
from asr_kd.corpora.settings import OwnSettings
from asr_kd.errors import CorpusError


@dataclass
class Listing:
    """What a corpus lists, by set (`train` among them), before any audio was looked at."""

    name: str
    folder: Path
    parts: dict[str, list[Recording]] = field(default_factory=dict)
    dev_sets: tuple[str, ...] = ("dev",)
    absent: dict[str, str] = field(default_factory=dict)
    unmatched: list[Exclusion] = field(default_factory=list)
    channels: ChannelPolicy = "refuse"
    dropped: Counter[str] = field(default_factory=Counter)
    remedy: str = "Unpack the corpus again, or raise corpus.max_excluded_share to go on without them"

    def add_split(self, part: str, split: str) -> None:
        """Add a folder in LibriSpeech's layout to a set."""
        recordings, unmatched = read_split(self.folder, split)
        self.parts.setdefault(part, []).extend(recordings)
        self.unmatched += unmatched

    def add_manifest(self, part: str, path: Path, settings: OwnSettings) -> None:
        """Add a manifest to a set."""
        table = read_table(path.expanduser(), settings.format, settings.data_root, settings.channels)
        self.parts.setdefault(part, []).extend(table.recordings)
        self.unmatched += table.excluded
        self.dropped += table.dropped


def measure_listing(listing: Listing, max_excluded_share: float) -> tuple[dict[str, list[Utterance]], list[Exclusion]]:
    """The sets of a listing with durations, and what is missing or unusable.

    Raises:
        CorpusError: too many are unusable, an id is unsafe or stands twice, or a set is empty.
    """
    excluded = list(listing.unmatched)
    sets: dict[str, list[Utterance]] = {}
    for part, recordings in listing.parts.items():
        sets[part], unusable = measure(recordings, listing.channels)
        excluded += unusable
    listed = sum(map(len, listing.parts.values())) + len(listing.unmatched)
    refuse_too_many(excluded, listed, max_excluded_share, listing.folder, listing.remedy)
    check_sets(sets, excluded, listing.folder)
    return sets, excluded


def check_sets(sets: Mapping[str, Sequence[Utterance]], excluded: Sequence[Exclusion], where: Path) -> None:
    """Refuse an empty set, and an id that is unsafe or belongs to two utterances.

    Raises:
        CorpusError: there is one.
    """
    for part, members in sets.items():
        if not members:
            why = (
                f"; {len(excluded)} were left out, such as {excluded[0].path}: {excluded[0].reason}" if excluded else ""
            )
            raise CorpusError(f"the set {part!r} is empty{why}", where=where, expected="at least one utterance in it")
    home: dict[str, Utterance] = {}
    for members in sets.values():
        for utterance in members:
            problem = id_problem(utterance.id)
            if problem:
                raise CorpusError(f"the id {utterance.id[:40]!r} {problem}", where=where, expected="a plain name")
            other = home.setdefault(utterance.id, utterance)
            if other is not utterance:
                raise CorpusError(
                    f"the id {utterance.id!r} belongs to {other.audio} and to {utterance.audio}",
                    where=where,
                    expected="each id once",
                    remedy="Rename one of the files and its transcript, or remove the copy",
                )
