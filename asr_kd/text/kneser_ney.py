"""N-gram language models from text: interpolated modified Kneser–Ney, written as ARPA; and reading such text.

The estimates are those of KenLM's `lmplz` (Heafield et al. 2013, "Scalable Modified Kneser-Ney Language Model
Estimation"; Chen & Goodman 1998), with its sentence ends, unknown word, discounts and pruning. It is our own code,
because the wheel of kenlm has no `lmplz`, nltk writes no ARPA, and arpabo (0.3) has one fixed discount and no pruning.
Memory: about 100 bytes per running word.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO, cast

import numpy as np

from asr_kd.errors import LanguageModelError
from asr_kd.files import loads_json
from asr_kd.text.normalize import Normalizer, normalize

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
SPECIAL = (UNKNOWN, BEGIN, END)

HIGHEST_ORDER = 6
"""Highest order that KenLM reads."""

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where counts of counts give no estimate, as with `lmplz --discount_fallback`."""

NEVER = -99.0
"""ARPA's log10 of 0: `<s>` is never predicted."""


@dataclass(frozen=True)
class NgramModel:
    """N-grams with log10 probabilities and back-off weights.

    Attributes:
        words: by id; the special ones first.
        ngrams: a table for each order n: word ids [N, n], sorted.
        log_probs: for each order [N], log10.
        backoffs: for each order but the highest [N], log10.
        discounts: for each order those of n-grams seen once, twice, and more often.
        fallbacks: orders whose discounts could not be estimated.
    """

    words: tuple[str, ...]
    ngrams: tuple[np.ndarray, ...]
    log_probs: tuple[np.ndarray, ...]
    backoffs: tuple[np.ndarray, ...]
    discounts: tuple[tuple[float, ...], ...]
    fallbacks: tuple[int, ...]

    @property
    def order(self) -> int:
        """The longest n-gram."""
        return len(self.ngrams)

    def arpa_lines(self) -> Iterator[str]:
        """The model in ARPA's format, with line ends."""
        yield "\\data\\\n"
        for order, table in enumerate(self.ngrams, start=1):
            yield f"ngram {order}={len(table)}\n"
        names = np.array(self.words, dtype=object)
        for order, table in enumerate(self.ngrams, start=1):
            yield f"\n\\{order}-grams:\n"
            log_probs = self.log_probs[order - 1].tolist()
            backoffs = self.backoffs[order - 1].tolist() if order < self.order else None
            for index, row in enumerate(names[table].tolist()):
                ending = f"\t{backoffs[index]:.7g}" if backoffs is not None else ""
                yield f"{log_probs[index]:.7g}\t{' '.join(row)}{ending}\n"
        yield "\n\\end\\\n"


class _Level(NamedTuple):
    """N-grams of one order, with their counts."""

    words: np.ndarray  # [N, n] word ids
    context: np.ndarray  # [N] index of the first n − 1 words, one order below
    suffix: np.ndarray  # [N] index of the last n − 1 words, one order below
    counts: np.ndarray  # [N] occurrences
    adjusted: np.ndarray  # [N] number of different words before it; occurrences at the highest order


def estimate(sentences: Iterable[str], order: int = 3, prune: Sequence[int] = ()) -> NgramModel:
    """Estimate a model.

    Args:
        sentences: words between spaces; empty sentences are ignored.
        order: longest n-gram, 2 to 6.
        prune: n-grams of order 1, 2, … with at most so many occurrences are removed; higher orders use the last number.
            Empty: nothing is removed. Single words are always kept.

    Raises:
        LanguageModelError: no word, a reserved one, or an order or pruning that cannot be.
    """
    thresholds = _thresholds(order, prune)
    words, running = _read(sentences)
    levels = _count(running, len(words), order)
    discounts, fallbacks = [], []
    for number, level in enumerate(levels, start=1):
        found = _discounts(level.adjusted[level.adjusted > 0])
        fallbacks += [number] if found is None else []
        discounts.append(found or FALLBACK)
    kept = [level.counts > threshold for level, threshold in zip(levels, thresholds, strict=True)]
    kept[0][:] = True
    probs, backoffs = _interpolate(levels, kept, discounts)
    log_probs = [np.log10(values[mask]) for values, mask in zip(probs, kept, strict=True)]
    log_probs[0][SPECIAL.index(BEGIN)] = NEVER
    return NgramModel(
        words=words,
        ngrams=tuple(level.words[mask] for level, mask in zip(levels, kept, strict=True)),
        log_probs=tuple(log_probs),
        # A weight of 0, where a discount is exactly 0, would be −∞, which KenLM does not read.
        backoffs=tuple(
            np.log10(np.maximum(values[mask], 10.0**NEVER)) for values, mask in zip(backoffs, kept, strict=False)
        ),
        discounts=tuple(discounts),
        fallbacks=tuple(fallbacks),
    )


def _thresholds(order: int, prune: Sequence[int]) -> list[int]:
    if not 2 <= order <= HIGHEST_ORDER:
        raise LanguageModelError(f"order {order}", expected=f"2 to {HIGHEST_ORDER}")
    given = list(prune) or [0]
    thresholds = (given + [given[-1]] * order)[:order]
    if thresholds != sorted(thresholds) or thresholds[0] != 0 or len(given) > order:
        raise LanguageModelError(
            f"prune {' '.join(map(str, prune))}",
            expected="0 for single words, then numbers that never fall, one an order",
        )
    return thresholds


def _read(sentences: Iterable[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Words by id, and the running text as ids with `<s>` before and `</s>` after each sentence."""
    ids = {word: index for index, word in enumerate(SPECIAL)}
    running: list[int] = []
    for sentence in sentences:
        words = sentence.split()
        reserved = [word for word in words if word in SPECIAL]
        if reserved:
            raise LanguageModelError(
                f"the text holds {reserved[0]}", expected="words; this one has a meaning of its own"
            )
        if words:
            running.append(1)
            running += [ids.setdefault(word, len(ids)) for word in words]
            running.append(2)
    if not running:
        raise LanguageModelError("the text holds no words", expected="one sentence a line")
    return tuple(ids), np.array(running, dtype=np.int64)


def _count(running: np.ndarray, vocabulary: int, order: int) -> list[_Level]:
    """Every order's n-grams; none reaches across sentences, and `<s>` only begins them."""
    singles = np.arange(vocabulary, dtype=np.int64)
    occurrences = np.bincount(running, minlength=vocabulary)
    tables = [(singles[:, None], singles * 0, singles * 0, occurrences)]
    starts = np.arange(len(running))  # where an n-gram begins in the text, and which one
    place = running
    for length in range(2, order + 1):
        starts = starts[starts + length <= len(running)]
        starts = starts[running[starts + length - 1] != 1]  # those that would go on into the next sentence
        prefix, word = place[starts], running[starts + length - 1]
        keys, first, inverse, counts = np.unique(
            prefix * vocabulary + word, return_index=True, return_inverse=True, return_counts=True
        )
        context, suffix = prefix[first], place[starts[first] + 1]
        table = np.concatenate([tables[-1][0][context], (keys % vocabulary)[:, None]], axis=1)
        tables.append((table, context, suffix, counts))
        place = np.full(len(running), -1, dtype=np.int64)
        place[starts] = inverse
    return _adjusted(tables)


def _adjusted(tables: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]) -> list[_Level]:
    levels = []
    for index, (table, context, suffix, counts) in enumerate(tables):
        adjusted = counts
        if index + 1 < len(tables):  # words seen before it; nothing stands before <s>
            before = np.bincount(tables[index + 1][2], minlength=len(table))
            adjusted = np.where(table[:, 0] == 1, counts, before)
        if index == 0:
            adjusted[1] = 0  # <s> is never predicted
        levels.append(_Level(table, context, suffix, counts, adjusted))
    return levels


def _discounts(adjusted: np.ndarray) -> tuple[float, ...] | None:
    """D1, D2 and D3+ by Chen & Goodman's closed form; None where a divisor is 0 or a result cannot be (as lmplz)."""
    seen = [int((adjusted == times).sum()) for times in range(1, 5)]
    if not all(seen[:3]):
        return None
    ratio = seen[0] / (seen[0] + 2 * seen[1])
    found = tuple(times - (times + 1) * ratio * seen[times] / seen[times - 1] for times in range(1, 4))
    return found if all(0 <= value <= times for times, value in enumerate(found, start=1)) else None


def _interpolate(
    levels: Sequence[_Level], kept: Sequence[np.ndarray], discounts: Sequence[Sequence[float]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Interpolated probabilities of every order, and the back-off weights of all but the highest.

    What discounting and pruning take from the n-grams of a context is shared out as the order below would.
    """
    probs: list[np.ndarray] = []
    backoffs: list[np.ndarray] = []
    for index, level in enumerate(levels):
        contexts = 1 if index == 0 else len(levels[index - 1].words)
        total = np.bincount(level.context, weights=level.adjusted, minlength=contexts)
        discount = np.array([0.0, *discounts[index]])[np.minimum(level.adjusted, 3)]
        numerator = np.where(kept[index], np.maximum(level.adjusted - discount, 0.0), 0.0)
        left = total - np.bincount(level.context, weights=numerator, minlength=contexts)
        with np.errstate(invalid="ignore"):
            backoff = np.where(total > 0, left / total, 1.0)
            direct = np.where(total[level.context] > 0, numerator / total[level.context], 0.0)
        lower = np.full(len(level.words), 1.0 / (len(level.words) - 1)) if index == 0 else probs[-1][level.suffix]
        probs.append(direct + backoff[level.context] * lower)
        if index:
            backoffs.append(backoff)
    return probs, backoffs


def read_sentences(path: Path, normalizer: Normalizer = "librispeech") -> Iterator[str]:
    """Yield the sentences of a file or folder, normalized; empty ones are skipped.

    Args:
        path: text with a sentence per line, a manifest (.jsonl, its `text`), transcripts whose lines begin with an id
            (Kaldi's `text` or NAME.text, LibriSpeech's .trans.txt), each possibly gzipped (.gz); or a folder of
            LibriSpeech.
        normalizer: that of the models' vocabulary.

    Raises:
        LanguageModelError: no such file, a folder without transcripts, or a row without text.
    """
    files = [path]
    if path.is_dir():
        files = sorted(path.rglob("*.trans.txt"))
    if not files or not path.exists():
        raise LanguageModelError(
            "holds no *.trans.txt" if path.exists() else "no such file or folder",
            where=path,
            expected="text, a manifest (.jsonl), or a folder of LibriSpeech's transcripts",
        )
    for file in files:
        for line in _texts(file):
            sentence = normalize(line, normalizer)
            if sentence.split():
                yield sentence


@contextmanager
def reading_text(path: Path, expected: str) -> Iterator[TextIO]:
    """Open a text file, decompressed if its name ends in .gz, for the block that reads it.

    Raises:
        LanguageModelError: the file cannot be read or is damaged, or the block raised a ValueError.
    """
    try:
        with _opened(path) as file:
            yield file
    except (OSError, EOFError, zlib.error, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise LanguageModelError(f"cannot be read ({error})", where=path, expected=expected) from error


def _opened(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8"))
    return path.open(encoding="utf-8")


def _texts(path: Path) -> Iterator[str]:
    with reading_text(path, "text in UTF-8") as file:
        for number, line in enumerate(file, start=1):
            yield _text(line, path, number)


def _text(line: str, path: Path, number: int) -> str:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        try:
            text = loads_json(line)["text"] if line.strip() else None
            if not isinstance(text, str | None):
                raise TypeError("the text is no string")
            return text or ""
        except (ValueError, KeyError, TypeError) as error:
            raise LanguageModelError(
                f"row {line.strip()[:60]!r}", where=f"{path}:{number}", expected='an object with "text"'
            ) from error
    begins_with_id = name == "text" or name.endswith((".text", ".trans.txt"))
    return " ".join(line.split()[1:]) if begins_with_id else line
