"""Speakers in folds: disjoint, nearly equal, the same on every machine. Knows no corpus' layout."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import CorpusError


def balanced_folds(sizes: Mapping[str, int], count: int, seed: int) -> list[set[str]]:
    """Names in `count` disjoint sets of nearly the same total size.

    They go, the largest first, to the fold that holds the least; the seed orders those of one size.

    Args:
        sizes: of each name, at least 1.
        count: how many folds.
        seed: another one gives other folds.
    """
    folds: list[set[str]] = [set() for _ in range(count)]
    totals = [0] * count
    for name in sorted(sizes, key=lambda name: (-sizes[name], shuffled(name, seed))):
        smallest = totals.index(min(totals))
        folds[smallest].add(name)
        totals[smallest] += sizes[name]
    return folds


def shuffled(name: str, seed: int) -> str:
    """A sort key: pseudo-random by the seed, and the same for every Python and platform."""
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


def fold_of_utterances(
    utterances: Iterable[Utterance], count: int, seed: int, person_of: Callable[[str], str] = str
) -> dict[str, int]:
    """The fold of each utterance by its id, from 0; all that one speaker said are in one fold.

    Folds hold nearly as many minutes of audio each. Utterances whose speaker nobody knows share a name, and so a fold:
    they may be of one person. A speaker without an utterance is in no fold.

    Args:
        utterances: of the training set.
        count: how many folds.
        seed: another one gives other folds.
        person_of: who a speaker's name stands for, where several may be one person.

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
            expected=f"at least {count} speakers: each teacher labels those that it never heard",
            remedy="Ask for fewer folds, or say who speaks in the manifest",
        )
    # Minutes: most speakers are of one size then, and the seed has something to say.
    folds = balanced_folds({name: max(1, math.ceil(total / 60)) for name, total in seconds.items()}, count, seed)
    of_person = {name: number for number, fold in enumerate(folds) for name in fold}
    return {utterance_id: of_person[name] for utterance_id, (name, _) in person.items()}
