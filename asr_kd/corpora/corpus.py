"""A prepared corpus: a training set and named evaluation sets, written to and read from a run's `manifests/`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_kd.corpora.manifest import Utterance, hours, read_manifest, write_manifest
from asr_kd.corpora.recordings import Exclusion
from asr_kd.corpora.settings import UNTRANSCRIBED
from asr_kd.errors import CorpusError
from asr_kd.files import claim_files, write_json, written_files

FORMAT = 1
"""Version of corpus.json; another one is refused."""


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus ready for use, with untranscribed audio beside it.

    Attributes:
        sets: every evaluation set by name.
        dev_sets: names of the sets that training may use for decisions.
        absent: the reason for each requested set that is missing.
        excluded: utterances that are left out.
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
        """All dev sets together."""
        return [utterance for name in self.dev_sets for utterance in self.sets[name]]

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the sets that no decision is based on."""
        return tuple(name for name in self.sets if name not in self.dev_sets)

    @property
    def utterances(self) -> list[Utterance]:
        """All utterances, the training set first."""
        evaluated = (utterance for members in self.sets.values() for utterance in members)
        return [*self.train, *self.untranscribed, *evaluated]


def manifests_folder(work_dir: Path) -> Path:
    """Folder of a run's manifests."""
    return work_dir / "manifests"


def write_prepared(corpus: PreparedCorpus, work_dir: Path) -> None:
    """Write train.jsonl, one SET.jsonl per set, and corpus.json last."""
    folder = manifests_folder(work_dir)
    extra = {UNTRANSCRIBED: corpus.untranscribed} if corpus.untranscribed else {}
    sets = {"train": corpus.train, **corpus.sets, **extra}
    manifests = {folder / f"{name}.jsonl": members for name, members in sets.items()}
    earlier = {folder / name for name in written_files(folder) if name.endswith(".jsonl")}
    claim_files(folder, [*(path.name for path in manifests), "corpus.json"])
    for path, members in manifests.items():
        write_manifest(path, members)
    for stale in earlier - manifests.keys():  # sets of an earlier prepare, such as another fold
        stale.unlink(missing_ok=True)
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
    """Read the files of `write_prepared`.

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
