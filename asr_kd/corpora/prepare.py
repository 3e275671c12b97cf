"""Any corpus into a training set and named evaluation sets, and these to and from a run's `manifests/`.

Knows which reader belongs to which settings; the layouts are the readers' business.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from asr_kd.corpora.an4 import find_an4, official_test, read_an4, split_speakers
from asr_kd.corpora.folder import cut_utterances, list_folder
from asr_kd.corpora.librispeech import find_librispeech, require_splits
from asr_kd.corpora.listing import Listing, check_sets, measure_listing
from asr_kd.corpora.manifest import Utterance, hours, read_manifest, write_manifest
from asr_kd.corpora.recordings import Exclusion
from asr_kd.corpora.settings import (
    UNTRANSCRIBED,
    An4Settings,
    AnyCorpus,
    FolderSettings,
    LibriSpeechSettings,
    ManifestSettings,
    OwnSettings,
    SyntheticSettings,
    UntranscribedSettings,
)
from asr_kd.corpora.synthetic import SPLITS, synthetic_folder, write_synthetic
from asr_kd.errors import CorpusError
from asr_kd.files import write_json
from asr_kd.progress import SILENT, Progress

OWN_REMEDY = (
    "Correct the manifest, corpus.data_root or the files, or raise corpus.max_excluded_share to go on without them"
)

FORMAT = 1
"""Version of corpus.json; another one is refused."""


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus ready for use, and audio beside it that nobody transcribed.

    `sets` holds every evaluation set by name; `dev_sets` names those that training may look at. `absent` gives
    the reason for each set that was asked for and is not there, `excluded` every utterance left out.
    """

    name: str
    train: list[Utterance]
    sets: dict[str, list[Utterance]]
    dev_sets: tuple[str, ...] = ("dev",)
    absent: dict[str, str] = field(default_factory=dict)
    excluded: list[Exclusion] = field(default_factory=list)
    synthetic: bool = False
    untranscribed: list[Utterance] = field(default_factory=list)

    @property
    def dev(self) -> list[Utterance]:
        """What training may look at: all dev sets together."""
        return [utterance for name in self.dev_sets for utterance in self.sets[name]]

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the sets that nothing is tuned to."""
        return tuple(name for name in self.sets if name not in self.dev_sets)

    @property
    def utterances(self) -> list[Utterance]:
        """Everything, the training set first."""
        evaluated = (utterance for members in self.sets.values() for utterance in members)
        return [*self.train, *self.untranscribed, *evaluated]


def prepare(
    settings: AnyCorpus,
    work_dir: Path,
    progress: Progress = SILENT,
    *,
    max_excluded_share: float | None = None,
) -> PreparedCorpus:
    """Find (or, for synthetic speech, make) a corpus and read what is in it.

    Args:
        settings: which corpus, which part.
        work_dir: the run's folder; only synthetic speech is written there.
        progress: told how far the making of synthetic speech, or the cutting of long files, is; and what is cut.
        max_excluded_share: instead of the settings' own; `check` passes 1 to see everything.

    Raises:
        CorpusError: the corpus or a needed part is not there, malformed, or too much of it is unusable.
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
    listing.channels = settings.channels
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
    folders = [folder.expanduser() for folder in settings.train]
    listing = Listing("folder", folders[0], {"train": []}, remedy=OWN_REMEDY)
    for folder in folders:
        listing.parts["train"] += list_folder(folder, settings)
    _add_evaluation_sets(listing, settings, progress)
    corpus = _prepared(listing, max_excluded_share)
    train, too_short = cut_utterances(corpus.train, settings, progress)
    excluded = [*corpus.excluded, *too_short]
    check_sets({"train": train, **corpus.sets}, excluded, listing.folder)  # pieces have new ids
    return replace(corpus, train=train, excluded=excluded)


def add_untranscribed(
    corpus: PreparedCorpus,
    settings: UntranscribedSettings,
    progress: Progress = SILENT,
    *,
    max_excluded_share: float | None = None,
) -> PreparedCorpus:
    """A corpus with audio beside it, cut where it is long; what is audio of the corpus itself is left out and listed.

    Raises:
        CorpusError: no such folder, nothing in it, or too much of it is unusable.
    """
    folders = [folder.expanduser() for folder in settings.folders]
    recordings = [recording for folder in folders for recording in list_folder(folder, settings)]
    listing = Listing("folder", folders[0], {UNTRANSCRIBED: recordings}, channels=settings.channels, remedy=OWN_REMEDY)
    share = settings.max_excluded_share if max_excluded_share is None else max_excluded_share
    measured, excluded = measure_listing(listing, share)
    own = {utterance.audio.resolve() for utterance in corpus.utterances}
    others = [utterance for utterance in measured[UNTRANSCRIBED] if utterance.audio.resolve() not in own]
    known = [utterance for utterance in measured[UNTRANSCRIBED] if utterance.audio.resolve() in own]
    excluded += [Exclusion(u.id, u.audio, "is audio of the corpus itself") for u in known]
    extra, unusable = cut_utterances(others, settings, progress)
    excluded += unusable
    check_sets({"train": corpus.train, **corpus.sets, UNTRANSCRIBED: extra}, excluded, listing.folder)
    return replace(corpus, untranscribed=extra, excluded=[*corpus.excluded, *excluded])


def _add_evaluation_sets(listing: Listing, settings: OwnSettings, progress: Progress) -> None:
    listing.channels = settings.channels
    for path in settings.dev:
        listing.add_manifest("dev", path, settings)
    for name, path in settings.test.items():
        listing.add_manifest(name, path, settings)
    if listing.dropped:
        counts = ", ".join(f"{key} ({count} rows)" for key, count in sorted(listing.dropped.items()))
        progress.message(f"  not used of the manifests: {counts}")


def manifests_folder(work_dir: Path) -> Path:
    """Where a run keeps its manifests."""
    return work_dir / "manifests"


def write_prepared(corpus: PreparedCorpus, work_dir: Path) -> None:
    """Write train.jsonl, one SET.jsonl a set, and corpus.json last, which says what belongs together."""
    folder = manifests_folder(work_dir)
    extra = {UNTRANSCRIBED: corpus.untranscribed} if corpus.untranscribed else {}
    sets = {"train": corpus.train, **corpus.sets, **extra}
    manifests = {folder / f"{name}.jsonl": members for name, members in sets.items()}
    for path, members in manifests.items():
        write_manifest(path, members)
    for stale in set(folder.glob("*.jsonl")) - manifests.keys():  # sets of an earlier choice, such as another fold
        stale.unlink()
    description = {
        "format": FORMAT,
        "name": corpus.name,
        "synthetic": corpus.synthetic,
        "train": _summary(corpus.train),
        "sets": {name: _summary(members) for name, members in corpus.sets.items()},
        **{name: _summary(members) for name, members in extra.items()},
        "dev_sets": list(corpus.dev_sets),
        "absent": corpus.absent,
        "excluded": [{"id": item.id, "path": str(item.path), "reason": item.reason} for item in corpus.excluded],
    }
    write_json(folder / "corpus.json", description)


def read_prepared(work_dir: Path, *, check_files: bool = False) -> PreparedCorpus:
    """Read back what `write_prepared` wrote.

    Raises:
        CorpusError: nothing was prepared, of another version, or a manifest is missing, changed in size or malformed.
    """
    path = manifests_folder(work_dir) / "corpus.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(description, dict) or description.get("format") != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        sizes = {"train": description["train"], **description["sets"]}
        extra = description.get(UNTRANSCRIBED)
        untranscribed = _read_set(path.parent, UNTRANSCRIBED, extra, check_files) if extra else []
        sets = {name: _read_set(path.parent, name, size, check_files) for name, size in sizes.items()}
        excluded = [Exclusion(row["id"], Path(row["path"]), row["reason"]) for row in description["excluded"]]
        return PreparedCorpus(
            description["name"],
            sets.pop("train"),
            sets,
            tuple(description["dev_sets"]),
            dict(description["absent"]),
            excluded,
            bool(description["synthetic"]),
            untranscribed,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"cannot be used ({error})",
            where=path,
            expected=f"what prepare writes (format {FORMAT})",
            remedy="Run asr-kd prepare",
        ) from error


def _read_set(folder: Path, name: str, size: Any, check_files: bool) -> list[Utterance]:
    utterances = read_manifest(folder / f"{name}.jsonl", check_files=check_files)
    if len(utterances) != size["utterances"]:
        raise CorpusError(
            f"has {len(utterances)} rows",
            where=folder / f"{name}.jsonl",
            expected=f"{size['utterances']} as corpus.json says",
            remedy="Run asr-kd prepare --force",
        )
    return utterances


def _summary(utterances: Sequence[Utterance]) -> dict[str, Any]:
    return {
        "utterances": len(utterances),
        "hours": round(hours(utterances), 4),
        "speakers": len({utterance.speaker for utterance in utterances}),
    }
