"""Prepare any corpus: list its utterances, read their durations, and exclude what is missing or unusable."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asr_kd.audio import ChannelPolicy
from asr_kd.corpora.an4 import find_an4, official_test, read_an4, split_speakers
from asr_kd.corpora.corpus import PreparedCorpus, shuffled
from asr_kd.corpora.folder import cut_utterances, list_folder
from asr_kd.corpora.formats.catalogue import read_table
from asr_kd.corpora.librispeech import find_librispeech, read_split, require_splits
from asr_kd.corpora.manifest import Utterance, id_problem
from asr_kd.corpora.recordings import Exclusion, Recording, measure, refuse_too_many
from asr_kd.corpora.settings import (
    UNTRANSCRIBED,
    An4Settings,
    AnyCorpus,
    AudioFolders,
    FolderSettings,
    LibriSpeechSettings,
    ManifestSettings,
    OwnSettings,
    SyntheticSettings,
    UntranscribedSettings,
)
from asr_kd.corpora.synthetic import SPLITS, synthetic_folder, write_synthetic
from asr_kd.errors import CorpusError
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
    dropped: Counter[str] = field(default_factory=Counter)
    remedy: str = "Unpack the corpus again, or raise corpus.max_excluded_share to go on without them"

    def add_split(self, part: str, split: str) -> None:
        """Add a folder in LibriSpeech's layout to a set."""
        recordings, unmatched = read_split(self.folder, split)
        self.parts.setdefault(part, []).extend(recordings)
        self.unmatched += unmatched

    def add_manifest(self, part: str, path: Path, settings: OwnSettings) -> None:
        """Add a manifest to a set."""
        table = read_table(path, settings.format, settings.data_root, settings.row_channels)
        self.parts.setdefault(part, []).extend(table.recordings)
        self.unmatched += table.excluded
        self.dropped += table.dropped


def prepare(
    settings: AnyCorpus,
    work_dir: Path,
    progress: Progress = SILENT,
    *,
    max_excluded_share: float | None = None,
) -> PreparedCorpus:
    """Find (or, for synthetic speech, make) a corpus and list its utterances.

    Only synthetic speech is written into `work_dir`. `max_excluded_share` replaces that of the settings: 1
    lists everything.

    Raises:
        CorpusError: the corpus or a needed part is missing or malformed, or too much of it is unusable.
        MissingExtraError: synthetic speech without its extra.
    """
    if isinstance(settings, SyntheticSettings):
        return _prepare_synthetic(settings, work_dir, progress, max_excluded_share or 0.0)
    share = settings.max_excluded_share if max_excluded_share is None else max_excluded_share
    if isinstance(settings, FolderSettings):
        return _prepare_folder(settings, progress, share)
    if isinstance(settings, ManifestSettings):
        return _prepared(_list_manifests(settings, progress), share)
    listing = _list_an4(settings) if isinstance(settings, An4Settings) else _list_librispeech(settings)
    listing.channels = settings.row_channels
    return _prepared(listing, share)


def _prepared(listing: Listing, max_excluded_share: float) -> PreparedCorpus:
    sets, excluded = measure_listing(listing, max_excluded_share)
    return PreparedCorpus(listing.name, sets.pop("train"), sets, listing.dev_sets, listing.absent, excluded)


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


def _prepare_synthetic(
    settings: SyntheticSettings, work_dir: Path, progress: Progress, max_excluded_share: float
) -> PreparedCorpus:
    folder = synthetic_folder(settings, work_dir)
    write_synthetic(settings, folder, progress)
    listing = Listing("synthetic", folder)
    for split in SPLITS:
        listing.add_split(split, split)
    return replace(_prepared(listing, max_excluded_share), synthetic=True)


def _list_manifests(settings: ManifestSettings, progress: Progress) -> Listing:
    listing = Listing("manifest", settings.train[0], remedy=OWN_REMEDY)
    for path in settings.train:
        listing.add_manifest("train", path, settings)
    _add_evaluation_sets(listing, settings, progress)
    return listing


def _prepare_folder(settings: FolderSettings, progress: Progress, max_excluded_share: float) -> PreparedCorpus:
    listing = Listing("folder", settings.train[0], {"train": []}, remedy=OWN_REMEDY)
    for folder in settings.train:
        listing.parts["train"] += list_folder(folder, settings)
    _add_evaluation_sets(listing, settings, progress)
    corpus = _prepared(listing, max_excluded_share)
    train, unusable = cut_utterances(corpus.train, settings, progress)
    sets, excluded = corpus.sets, [*corpus.excluded, *unusable]
    _refuse_damaged(unusable, corpus.train, settings, max_excluded_share, listing)
    if not settings.dev:
        train, dev = hold_out(train, settings.held_out_share)
        sets = {"dev": dev, **sets}
    check_sets({"train": train, **sets}, excluded, listing.folder)  # pieces have new ids
    return replace(corpus, train=train, sets=sets, excluded=excluded)


def hold_out(utterances: Sequence[Utterance], share: float) -> tuple[list[Utterance], list[Utterance]]:
    """Divide utterances into a training set and a dev set of a share of the audio, at most `MOST_HELD_OUT_SECONDS`.

    Whole speakers are held out where there are at least three, otherwise whole recordings, otherwise utterances; which
    ones depends on their names alone.
    """
    by_speaker, by_file = ({u.id: u.speaker for u in utterances}, {u.id: str(u.audio) for u in utterances})
    groups = next((names for names in (by_speaker, by_file) if len(set(names.values())) >= LEAST_GROUPS), None)
    group = groups or {u.id: u.id for u in utterances}
    seconds: Counter[str] = Counter()
    for utterance in utterances:
        seconds[group[utterance.id]] += utterance.duration  # type: ignore[assignment]  # a Counter adds any numbers
    wanted = min(share * sum(seconds.values()), MOST_HELD_OUT_SECONDS)
    held: set[str] = set()
    total = 0.0
    for name in sorted(seconds, key=lambda name: shuffled(name, 0)):
        if not held or total + seconds[name] <= wanted:
            held.add(name)
            total += seconds[name]
    return (
        [utterance for utterance in utterances if group[utterance.id] not in held],
        [utterance for utterance in utterances if group[utterance.id] in held],
    )


def add_untranscribed(
    corpus: PreparedCorpus,
    settings: UntranscribedSettings,
    progress: Progress = SILENT,
    *,
    max_excluded_share: float | None = None,
) -> PreparedCorpus:
    """Add untranscribed audio to a corpus, cut where it is long; audio of the corpus itself is excluded.

    Raises:
        CorpusError: no such folder, no audio in it, or too much of it is unusable.
    """
    folders = settings.folders
    recordings = [recording for folder in folders for recording in list_folder(folder, settings)]
    listing = Listing(
        "folder", folders[0], {UNTRANSCRIBED: recordings}, channels=settings.row_channels, remedy=OWN_REMEDY
    )
    share = settings.max_excluded_share if max_excluded_share is None else max_excluded_share
    measured, excluded = measure_listing(listing, share)
    own = {utterance.audio.resolve() for utterance in corpus.utterances}
    others = [utterance for utterance in measured[UNTRANSCRIBED] if utterance.audio.resolve() not in own]
    known = [utterance for utterance in measured[UNTRANSCRIBED] if utterance.audio.resolve() in own]
    excluded += [Exclusion(u.id, u.audio, "is audio of the corpus itself") for u in known]
    extra, unusable = cut_utterances(others, settings, progress)
    _refuse_damaged(unusable, others, settings, share, listing)
    excluded += unusable
    check_sets({"train": corpus.train, **corpus.sets, UNTRANSCRIBED: extra}, excluded, listing.folder)
    return replace(corpus, untranscribed=extra, excluded=[*corpus.excluded, *excluded])


def _refuse_damaged(
    unusable: Sequence[Exclusion],
    utterances: Sequence[Utterance],
    settings: AudioFolders,
    max_excluded_share: float,
    listing: Listing,
) -> None:
    """Refuse too many files that are damaged where a cut was searched; short ones are left out on purpose."""
    short = {utterance.id for utterance in utterances if utterance.duration < settings.min_seconds}
    damaged = [item for item in unusable if item.id not in short]
    refuse_too_many(damaged, len(utterances), max_excluded_share, listing.folder, listing.remedy)


def _add_evaluation_sets(listing: Listing, settings: OwnSettings, progress: Progress) -> None:
    listing.channels = settings.row_channels
    for path in settings.dev:
        listing.add_manifest("dev", path, settings)
    for name, path in settings.test.items():
        listing.add_manifest(name, path, settings)
    if listing.dropped:
        counts = ", ".join(f"{key} ({count} rows)" for key, count in sorted(listing.dropped.items()))
        progress.message(f"  not used of the manifests: {counts}")


def measure_listing(listing: Listing, max_excluded_share: float) -> tuple[dict[str, list[Utterance]], list[Exclusion]]:
    """Return the sets of a listing with durations, and what is missing or unusable.

    Raises:
        CorpusError: too many are unusable, an id is unsafe or occurs twice, or a set is empty.
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
    """Refuse an empty set, and an id that is unsafe or belongs to two utterances, with a CorpusError."""
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
