"""Prepare any corpus: list its utterances, read their durations, and exclude what is missing or unusable."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr_kd.audio import ChannelPolicy
from asr_kd.corpora.an4 import find_an4, official_test, read_an4, split_speakers
from asr_kd.corpora.corpus import PreparedCorpus, shuffled
from asr_kd.corpora.folder import cut_utterances, list_folder
from asr_kd.corpora.formats.catalogue import read_table
from asr_kd.corpora.formats.table import Table
from asr_kd.corpora.librispeech import find_librispeech, read_split, require_splits
from asr_kd.corpora.manifest import Utterance, id_problem
from asr_kd.corpora.recordings import Exclusion, Recording, measure, refuse_too_many
from asr_kd.corpora.settings import (
    An4Settings,
    AnyCorpus,
    AudioFolders,
    FileSettings,
    FolderSettings,
    LibriSpeechSettings,
    ManifestFiles,
    ManifestSettings,
    SyntheticSettings,
)
from asr_kd.corpora.synthetic import SPLITS, synthetic_folder, write_synthetic
from asr_kd.errors import CorpusError, examples
from asr_kd.progress import SILENT, Progress

LEAST_GROUPS = 3
"""Speakers, or recordings, from which whole ones are held out."""
MOST_HELD_OUT_SECONDS = 3600.0

OWN_REMEDY = (
    "Correct the manifest, corpus.data_root or the files, or raise corpus.max_excluded_share to go on without them"
)


@dataclass
class Listing:
    """The utterances that a corpus lists, by set (`train` among them), before audio files are opened."""

    name: str
    folder: Path
    parts: dict[str, list[Recording]] = field(default_factory=dict)
    dev_sets: tuple[str, ...] = ("dev",)
    absent: dict[str, str] = field(default_factory=dict)
    unmatched: list[Exclusion] = field(default_factory=list)
    channels: ChannelPolicy = "refuse"
    max_excluded_share: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)
    remedy: str = "Unpack the corpus again, or raise corpus.max_excluded_share to go on without them"
    manifests: dict[str, list[Path]] = field(default_factory=dict)  # of each set, where it is listed in manifests
    faulty: list[str] = field(default_factory=list)  # sets of `unmatched`

    def limits(self, settings: FileSettings) -> None:
        """Take the policy for channels, and the share that may be unusable, from settings."""
        self.channels, self.max_excluded_share = settings.row_channels, settings.max_excluded_share

    def place(self, *parts: str) -> str:
        """Return where sets are listed: their manifests, or the corpus' folder."""
        paths = [path for part in parts for path in self.manifests.get(part, [self.folder])]
        return examples([str(path) for path in dict.fromkeys(paths)])

    def measure(self) -> tuple[dict[str, list[Utterance]], list[Exclusion]]:
        """Return the sets with durations, and what is missing or unusable.

        Raises:
            CorpusError: too many are unusable, an id is unsafe or occurs twice, or a set is empty.
        """
        excluded, faulty = list(self.unmatched), list(self.faulty)
        sets: dict[str, list[Utterance]] = {}
        for part, recordings in self.parts.items():
            sets[part], unusable = measure(recordings, self.channels)
            excluded += unusable
            faulty += [part] if unusable else []
        listed = sum(map(len, self.parts.values())) + len(self.unmatched)
        refuse_too_many(excluded, listed, self.max_excluded_share, self.place(*faulty), self.remedy)
        check_sets(sets, excluded, self.place)
        return sets, excluded

    def add_split(self, part: str, split: str) -> None:
        """Add a folder in LibriSpeech's layout to a set."""
        recordings, unmatched = read_split(self.folder, split)
        self.parts.setdefault(part, []).extend(recordings)
        self.unmatched += unmatched

    def add_manifest(self, part: str, path: Path, settings: ManifestFiles) -> None:
        """Add a manifest to a set."""
        table = read_table(path, settings.format, settings.data_root, settings.row_channels)
        self.parts.setdefault(part, []).extend(self._with_free_ids(table))
        self.unmatched += table.excluded
        self.faulty += [part] if table.excluded else []
        self.manifests.setdefault(part, []).append(path)
        self.dropped += table.dropped

    def _with_free_ids(self, table: Table) -> list[Recording]:
        """Return the recordings; ids that are made of names of files get a number where another file has them."""
        earlier = {recording.id: recording.audio for members in self.parts.values() for recording in members}
        taken = {**{recording.id: recording.audio for recording in table.recordings}, **earlier}
        found = []
        for recording in table.recordings:
            name, number = recording.id, 1
            while recording.id in table.made and taken.setdefault(name, recording.audio) != recording.audio:
                number += 1
                name = f"{recording.id}-{number}"
            found.append(replace(recording, id=name))
        return found


def prepare(
    settings: AnyCorpus, work_dir: Path, progress: Progress = SILENT, *, max_excluded_share: float | None = None
) -> PreparedCorpus:
    """Find (or, for synthetic speech, make) a corpus and list its utterances.

    Only synthetic speech is written into `work_dir`. `max_excluded_share` replaces that of the settings: 1
    lists everything.

    Raises:
        CorpusError: the corpus or a needed part is missing or malformed, or too much of it is unusable.
        MissingExtraError: synthetic speech without its extra.
    """
    if isinstance(settings, SyntheticSettings):
        listing = _list_synthetic(settings, work_dir, progress)
    elif isinstance(settings, An4Settings):
        listing = _list_an4(settings)
    elif isinstance(settings, LibriSpeechSettings):
        listing = _list_librispeech(settings)
    else:
        listing = _list_own(settings, progress)
    if isinstance(settings, FileSettings):
        listing.limits(settings)
    if max_excluded_share is not None:
        listing.max_excluded_share = max_excluded_share
    sets, excluded = listing.measure()
    corpus = PreparedCorpus(listing.name, sets.pop("train"), sets, listing.dev_sets, listing.absent, excluded)
    if isinstance(settings, FolderSettings):
        return _cut_folder(corpus, settings, listing, progress)
    return replace(corpus, synthetic=isinstance(settings, SyntheticSettings))


def _list_an4(settings: An4Settings) -> Listing:
    folder = find_an4(settings.root)
    listing = Listing("an4", folder, dict(split_speakers(read_an4(folder, "train"), settings.fold, settings.seed)))
    test = official_test(folder)
    if isinstance(test, str):
        listing.absent["test"] = test
    else:
        listing.parts["test"] = test
    return listing


def _list_librispeech(settings: LibriSpeechSettings) -> Listing:
    folder = find_librispeech(settings.root)
    require_splits(folder, [*settings.train, *settings.dev])
    listing = Listing("librispeech", folder, {"train": []}, dev_sets=tuple(settings.dev))
    for split in [*settings.train, *settings.dev, *settings.test]:
        if (folder / split).is_dir():
            listing.add_split("train" if split in settings.train else split, split)
        else:
            listing.absent[split] = f"not present, skipped: there is no folder {split}"
    return listing


def _list_synthetic(settings: SyntheticSettings, work_dir: Path, progress: Progress) -> Listing:
    listing = Listing("synthetic", synthetic_folder(settings, work_dir))
    write_synthetic(settings, listing.folder, progress)
    for split in SPLITS:
        listing.add_split(split, split)
    return listing


def _list_own(settings: ManifestSettings | FolderSettings, progress: Progress) -> Listing:
    listing = Listing(settings.kind, settings.train[0], {"train": []}, remedy=OWN_REMEDY)
    for path in settings.train:
        if isinstance(settings, FolderSettings):
            listing.parts["train"] += list_folder(path, settings)
        else:
            listing.add_manifest("train", path, settings)
    for path in settings.dev:
        listing.add_manifest("dev", path, settings)
    for name, path in settings.test.items():
        listing.add_manifest(name, path, settings)
    if listing.dropped:
        counts = ", ".join(f"{key} ({count} rows)" for key, count in sorted(listing.dropped.items()))
        progress.message(f"  not used of the manifests: {counts}")
    return listing


def _cut_folder(
    corpus: PreparedCorpus, settings: FolderSettings, listing: Listing, progress: Progress
) -> PreparedCorpus:
    """Cut long recordings, and hold out a dev set where none is given."""
    train, unusable = cut(corpus.train, settings, listing, progress)
    sets, excluded = corpus.sets, [*corpus.excluded, *unusable]
    if not settings.dev:
        train, dev = hold_out(train, settings.held_out_share)
        sets = {"dev": dev, **sets}
    check_sets({"train": train, **sets}, excluded, listing.place)  # pieces have new ids
    return replace(corpus, train=train, sets=sets, excluded=excluded)


def cut(
    utterances: Sequence[Utterance], settings: AudioFolders, listing: Listing, progress: Progress
) -> tuple[list[Utterance], list[Exclusion]]:
    """Cut long recordings; refuse too many that are damaged where a cut was searched, short ones aside."""
    pieces, unusable = cut_utterances(utterances, settings, progress)
    short = {utterance.id for utterance in utterances if utterance.duration < settings.min_seconds}
    damaged = [item for item in unusable if item.id not in short]
    refuse_too_many(damaged, len(utterances), listing.max_excluded_share, listing.folder, listing.remedy)
    return pieces, unusable


def hold_out(utterances: Sequence[Utterance], share: float) -> tuple[list[Utterance], list[Utterance]]:
    """Divide utterances into a training set and a dev set of a share of the audio, at most `MOST_HELD_OUT_SECONDS`.

    Whole speakers are held out where there are at least three, otherwise whole recordings, otherwise utterances, in an
    order that depends on their names alone. Where each is more than the share, the shortest is held out.
    """
    by_speaker, by_file = ({u.id: u.speaker for u in utterances}, {u.id: str(u.audio) for u in utterances})
    groups = next((names for names in (by_speaker, by_file) if len(set(names.values())) >= LEAST_GROUPS), None)
    group = groups or {u.id: u.id for u in utterances}
    seconds: Counter[str] = Counter()
    for utterance in utterances:
        seconds[group[utterance.id]] += utterance.duration  # type: ignore[assignment]  # a Counter adds any numbers
    wanted = min(share * sum(seconds.values()), MOST_HELD_OUT_SECONDS)
    order = sorted(seconds, key=lambda name: shuffled(name, 0))
    held: set[str] = set()
    total = 0.0
    for name in order:
        if total + seconds[name] <= wanted:
            held.add(name)
            total += seconds[name]
    held = held or set(sorted(order, key=seconds.__getitem__)[:1])
    return (
        [utterance for utterance in utterances if group[utterance.id] not in held],
        [utterance for utterance in utterances if group[utterance.id] in held],
    )


def check_sets(
    sets: Mapping[str, Sequence[Utterance]], excluded: Sequence[Exclusion], place: Callable[..., str]
) -> None:
    """Refuse an empty set, and an id that is unsafe or belongs to two utterances, with a CorpusError."""
    for part, members in sets.items():
        if not members:
            why = (
                f"; {len(excluded)} were left out, such as {excluded[0].path}: {excluded[0].reason}" if excluded else ""
            )
            raise CorpusError(
                f"the set {part!r} is empty{why}", where=place(part), expected="at least one utterance in it"
            )
    home: dict[str, tuple[str, Utterance]] = {}
    for part, utterance in ((part, utterance) for part, members in sets.items() for utterance in members):
        problem = id_problem(utterance.id)
        if problem:
            raise CorpusError(f"the id {utterance.id[:40]!r} {problem}", where=place(part), expected="a plain name")
        first, other = home.setdefault(utterance.id, (part, utterance))
        if other is not utterance:
            both = f" ({first} and {part})" if first != part else ""
            raise CorpusError(
                f"the id {utterance.id!r} belongs to {other.audio} and to {utterance.audio}{both}",
                where=place(first, part),
                expected="each id once, and no utterance in two sets",
                remedy="Leave it out of one of the sets"
                if other.audio == utterance.audio
                else "Rename one of the files and its transcript, or remove the copy",
            )
