"""A prepared corpus, a training set and named evaluation sets, in a run's `manifests/`; and folds of speakers."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_kd.corpora.manifest import Utterance, hours, read_manifest, write_manifest
from asr_kd.corpora.recordings import Exclusion
from asr_kd.corpora.settings import FURTHER_SPEECH, UNTRANSCRIBED
from asr_kd.errors import CorpusError
from asr_kd.files import read_json, register_files, release_files, sha256_of_file, write_json, written_files

FORMAT = 2
"""Version of corpus.json; another one is refused."""


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus ready for use, with untranscribed audio for students and further speech for teachers beside it.

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
    further_speech: list[Utterance] = field(default_factory=list)

    @property
    def dev(self) -> list[Utterance]:
        """All dev sets together."""
        return [utterance for name in self.dev_sets for utterance in self.sets[name]]

    @property
    def test_sets(self) -> tuple[str, ...]:
        """Names of the sets that no decision is based on."""
        return tuple(name for name in self.sets if name not in self.dev_sets)

    @property
    def manifests(self) -> dict[str, list[Utterance]]:
        """Utterances by the name of their manifest: train, what is beside it, and the evaluation sets."""
        return {"train": self.train, **self.additions, **self.sets}

    @property
    def additions(self) -> dict[str, list[Utterance]]:
        """Speech beside the corpus by the name of its manifest; absent where there is none."""
        extra = {UNTRANSCRIBED: self.untranscribed, FURTHER_SPEECH: self.further_speech}
        return {name: members for name, members in extra.items() if members}

    @property
    def utterances(self) -> list[Utterance]:
        """All utterances, the training set first."""
        return [utterance for members in self.manifests.values() for utterance in members]


def manifests_folder(work_dir: Path) -> Path:
    """Folder of a run's manifests."""
    return work_dir / "manifests"


def write_prepared(corpus: PreparedCorpus, work_dir: Path, others: Sequence[str] = ()) -> None:
    """Write train.jsonl, one SET.jsonl per set, and corpus.json last, which holds the hash of every file.

    `others` are names of further files that were written beside the manifests, such as the vocabulary.
    """
    folder = manifests_folder(work_dir)
    manifests = {folder / f"{name}.jsonl": members for name, members in corpus.manifests.items()}
    register_files(folder, [*(path.name for path in manifests), "corpus.json"])
    for path, members in manifests.items():
        write_manifest(path, members)
    earlier = {name for name in written_files(folder) if name.endswith(".jsonl")}
    release_files(folder, earlier - {path.name for path in manifests})  # sets of an earlier prepare
    description = {
        "format": FORMAT,
        "name": corpus.name,
        "synthetic": corpus.synthetic,
        "train": _summary(corpus.train),
        "sets": {name: _summary(members) for name, members in corpus.sets.items()},
        **{name: _summary(members) for name, members in corpus.additions.items()},
        "sha256": {name: sha256_of_file(folder / name) for name in [*(path.name for path in manifests), *others]},
        "dev_sets": list(corpus.dev_sets),
        "absent": corpus.absent,
        "excluded": [{"id": item.id, "path": str(item.path), "reason": item.reason} for item in corpus.excluded],
    }
    write_json(folder / "corpus.json", description)


def read_prepared(work_dir: Path, *, check_files: bool = False) -> PreparedCorpus:
    """Read the files of `write_prepared`.

    Raises:
        CorpusError: nothing was prepared, of another version, or a file is missing, changed or malformed.
    """
    path = manifests_folder(work_dir) / "corpus.json"
    if not path.is_file():
        raise CorpusError(
            "the corpus is not prepared", where=path.parent, remedy="Run the prepare stage first (asr-kd prepare)"
        )

    def read(name: str) -> list[Utterance]:
        return read_manifest(path.with_name(f"{name}.jsonl"), check_files=check_files)

    try:
        description = read_json(path)
        if description.get("format") != FORMAT:
            raise ValueError(f"not format {FORMAT}")
        for name, sha256 in description["sha256"].items():
            if sha256_of_file(path.with_name(name)) != sha256:
                raise CorpusError(
                    "has another SHA-256 than corpus.json states: it is damaged, or was changed by hand",
                    where=path.with_name(name),
                    expected="the file that prepare wrote",
                    remedy="Run asr-kd prepare: it writes the files anew",
                )
        additions = {name: read(name) for name in (UNTRANSCRIBED, FURTHER_SPEECH) if description.get(name)}
        sets = {name: read(name) for name in ("train", *description["sets"])}
        excluded = [Exclusion(row["id"], Path(row["path"]), row["reason"]) for row in description["excluded"]]
        return PreparedCorpus(
            description["name"],
            sets.pop("train"),
            sets,
            tuple(description["dev_sets"]),
            dict(description["absent"]),
            excluded,
            bool(description["synthetic"]),
            **additions,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"cannot be used ({error})",
            where=path,
            expected=f"what prepare writes (format {FORMAT})",
            remedy="Run asr-kd prepare",
        ) from error


def is_prepared(work_dir: Path) -> bool:
    """Return whether the files of `write_prepared` are all there and undamaged."""
    try:
        read_prepared(work_dir)
    except CorpusError:
        return False
    return True


def _summary(utterances: Sequence[Utterance]) -> dict[str, Any]:
    return {
        "utterances": len(utterances),
        "hours": round(hours(utterances), 4),
        "speakers": len({utterance.speaker for utterance in utterances}),
    }


def balanced_folds(sizes: Mapping[str, int], count: int, seed: int) -> list[set[str]]:
    """Distribute names over `count` disjoint sets of nearly the same total size, each name's at least 1.

    Names go, the largest first, to the smallest fold; the seed orders those of equal size.
    """
    folds: list[set[str]] = [set() for _ in range(count)]
    totals = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], shuffled(name, seed))):
        smallest = totals.index(min(totals))
        folds[smallest].add(name)
        totals[smallest] += sizes[name]
    return folds


def shuffled(name: str, seed: int) -> str:
    """Return a pseudo-random sort key, the same on every platform."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def fold_of_utterances(
    utterances: Iterable[Utterance], count: int, seed: int, person_of: Callable[[str], str] = str
) -> dict[str, int]:
    """Return the fold of each utterance, from 0, by id; a speaker's utterances are in one fold.

    Folds hold nearly the same minutes of audio. Utterances of unknown speakers share a name, and so a fold. `person_of`
    maps names that may belong to one person to one name.

    Raises:
        CorpusError: fewer speakers than folds.
    """
    person = {utterance.id: (person_of(utterance.speaker), utterance.duration) for utterance in utterances}
    seconds: Counter[str] = Counter()
    for name, duration in person.values():
        seconds[name] += duration  # type: ignore[assignment]  # a Counter adds any numbers
    if len(seconds) < count:
        raise CorpusError(
            f"{len(seconds)} training speakers cannot be cut into {count} folds",
            expected=f"at least {count} speakers: each teacher labels speakers that it was not trained on",
            remedy="Use fewer folds, or state the speakers in the manifest",
        )
    # In whole minutes, so that many speakers have equal sizes and the seed matters.
    folds = balanced_folds({name: max(1, math.ceil(total / 60)) for name, total in seconds.items()}, count, seed)
    of_person = {name: number for number, fold in enumerate(folds) for name in fold}
    return {utterance_id: of_person[name] for utterance_id, (name, _) in person.items()}
