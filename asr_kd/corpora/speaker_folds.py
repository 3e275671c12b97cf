"""Split speakers into disjoint folds of nearly equal size, the same on every machine."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import CorpusError


def balanced_folds(sizes: Mapping[str, int], count: int, seed: int) -> list[set[str]]:
    """Distribute names over `count` disjoint sets of nearly the same total size.

    Names go, the largest first, to the smallest fold; the seed orders those of equal size.

    Args:
        sizes: size of each name, at least 1.
        count: number of folds.
        seed: decides among equal sizes.
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

    Folds hold nearly the same minutes of audio. Utterances of unknown speakers share a name, and so a fold.

    Args:
        utterances: of the training set.
        count: number of folds.
        seed: decides among equal sizes.
        person_of: maps names that may belong to one person to one name.

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
