"""Scoring a test set of test-clean's size: seconds, beside jiwer and kaldialign. Prints a table.

    python benchmarks/scoring.py [--rounds 5]

2,620 synthetic utterances of 40 speakers, 52,576 words in all as in LibriSpeech's test-clean, and three systems with 3,
6 and 9 % of the words wrong. One thread. The first table is words alone, which is all that kaldialign counts, and words
and characters, both from texts as they come (ours normalizes them, the others split them); the second is everything
that `asr-kd score` prints for the three systems. The goals: under 1 s for a system, under 20 s for all statistics.
"""

import argparse
import random
import time
from collections.abc import Callable

import jiwer
import kaldialign

from asr_kd.evaluation.comparison import agreements, error_counts, every_pair, word_counts
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system_outputs import ReferenceSet, score_set
from asr_kd.scoring.significance import Resampling, bootstrap_wer
from asr_kd.scoring.wer import align_words, score
from asr_kd.text.normalize import ScoringNormalizer, normalize

UTTERANCES, WORDS, SPEAKERS = 2_620, 52_576, 40
RATES = {"teacher": 0.03, "student_kd": 0.06, "student_hard": 0.09}
LETTERS, WEIGHTS = "ETAOINSHRDLUCMFWYPGBVKJQXZ", [12, 9, 8, 7, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1] + [1] * 6


def lengths(rng: random.Random) -> list[int]:
    """Words of each utterance: skewed as read speech is, `WORDS` in all."""
    drawn = [rng.lognormvariate(0, 0.65) for _ in range(UTTERANCES)]
    found = [max(1, round(WORDS * value / sum(drawn))) for value in drawn]
    while sum(found) != WORDS:
        place = rng.randrange(UTTERANCES)
        found[place] = max(1, found[place] + (1 if sum(found) < WORDS else -1))
    return found


def with_errors(text: str, rate: float, vocabulary: list[str], rng: random.Random) -> str:
    """A text with this share of its words wrong: mostly substituted."""
    words = []
    for word in text.split():
        chance = rng.random() / rate
        if chance > 0.15:
            words.append(word if chance > 0.85 else rng.choice(vocabulary))
        if 0.85 < chance < 1:
            words.append(rng.choice(vocabulary))
    return " ".join(words)


def seconds(job: Callable[[], object], rounds: int) -> float:
    """The fastest of the rounds: whoever shares the machine only adds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        taken.append(time.perf_counter() - start)
    return min(taken)


def by_jiwer(references: list[str], hypotheses: list[str], characters: bool) -> int:
    """Word errors; characters are counted too where they are asked for."""
    found = jiwer.process_words(references, hypotheses)
    if characters:
        jiwer.process_characters(references, hypotheses)
    return found.substitutions + found.deletions + found.insertions


def by_kaldialign(references: list[str], hypotheses: list[str]) -> int:
    """Word errors."""
    pairs = zip(references, hypotheses, strict=True)
    return sum(kaldialign.edit_distance(one.split(), other.split())["total"] for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices(LETTERS, WEIGHTS, k=rng.choice([1, 2, 3, 4, 4, 5, 6, 8]))) for _ in range(9_000)]
    references = {f"u{n}": " ".join(rng.choices(vocabulary, k=length)) for n, length in enumerate(lengths(rng))}
    speakers = {name: f"s{n % SPEAKERS}" for n, name in enumerate(references)}
    systems = {
        key: {name: with_errors(text, rate, vocabulary, rng) for name, text in references.items()}
        for key, rate in RATES.items()
    }
    expected, found = list(references.values()), list(systems["student_kd"].values())

    def aligned(normalizer: ScoringNormalizer) -> object:
        return align_words(
            [normalize(text, normalizer) for text in expected],
            [normalize(text, normalizer) for text in found],
        )

    ours = score(references, systems["student_kd"], "librispeech")
    errors = {"asr-kd": ours.words.errors, "jiwer": by_jiwer(expected, found, False)}
    errors["kaldialign"] = by_kaldialign(expected, found)
    print(f"{UTTERANCES} utterances, {ours.words.length} words, {ours.characters.length} characters, one thread\n")
    print(f"{'one system':<14}{'errors':>8}{'words, s':>10}{'and characters, s':>19}")
    both = seconds(lambda: score(references, systems["student_kd"], "librispeech"), rounds)
    print(f"{'asr-kd':<14}{errors['asr-kd']:>8}{seconds(lambda: aligned('librispeech'), rounds):>10.3f}{both:>19.3f}")
    alone, both = (seconds(lambda c=c: by_jiwer(expected, found, c), rounds) for c in (False, True))  # type: ignore[misc]
    print(f"{'jiwer':<14}{errors['jiwer']:>8}{alone:>10.3f}{both:>19.3f}")
    print(
        f"{'kaldialign':<14}{errors['kaldialign']:>8}{seconds(lambda: by_kaldialign(expected, found), rounds):>10.3f}"
    )

    resampling = Resampling()
    scores = {key: score(references, texts, "librispeech") for key, texts in systems.items()}
    groups = list(speakers.values())
    counted, words = error_counts(ours), word_counts(ours)
    jobs: dict[str, Callable[[], object]] = {
        "scores of three": lambda: [score(references, texts, "librispeech") for texts in systems.values()],
        "bootstrap over utterances, one system": lambda: bootstrap_wer(counted, words),
        "bootstrap over speakers, one system": lambda: bootstrap_wer(counted, words, groups=groups),
        "three pairs: bootstraps and MAPSSWE": lambda: every_pair(scores, groups, resampling),
        "agreement in words": lambda: agreements([], scores),
        "everything": lambda: score_set(
            ReferenceSet(references, speakers), systems, {key: key for key in systems}, [], EvaluationSettings()
        ),
    }
    print(f"\n{'three systems, ' + str(resampling.samples) + ' resamples':<42}{'s':>8}")
    for name, job in jobs.items():
        print(f"{name:<42}{seconds(job, rounds):>8.3f}")


if __name__ == "__main__":
    main()
