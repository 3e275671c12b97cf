"""`asr-kd lm build`: an n-gram language model from a recipe's training transcripts, or from any text."""

import gzip
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from asr_kd.corpora.corpus import manifests_folder, read_prepared
from asr_kd.errors import LanguageModelError
from asr_kd.files import atomic_path, register_files, write_text
from asr_kd.recipe.context import VOCABULARY
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.tune import RESOLVED
from asr_kd.text.kneser_ney import SPECIAL, NgramModel, estimate, read_sentences
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import Vocabulary

EVALUATION = re.compile(r"(dev|test|eval)([-_.].*)?$", re.IGNORECASE)
"""Names of folders that hold evaluation sets."""


def build_lm(
    sources: Sequence[Path],
    out: Path,
    order: int,
    prune: Sequence[int] = (),
    normalizer: Normalizer = "librispeech",
    tokens: Path | None = None,
) -> list[str]:
    """Estimate a model and write it; return the report's lines.

    Args:
        sources: recipes whose corpus is prepared, or folders of runs (their training transcripts), manifests,
            transcripts or text.
        out: the ARPA file, packed with gzip when named .gz; over words, a list of them is written beside it.
        order: longest n-gram.
        prune: see `kneser_ney.estimate`.
        normalizer: of the text; a recipe has its own.
        tokens: a tokens.txt: the model is over its symbols, for a search without a lexicon; None: over words.

    Raises:
        LanguageModelError: no text, or it cannot be modelled so.
        VocabularyError: a sentence that the vocabulary cannot spell.
    """
    register_files(out.parent, [out.name] if tokens is not None else [out.name, words_path(out).name])
    sentences: Iterator[str] = (sentence for source in sources for sentence in _sentences(source, normalizer))
    if tokens is not None:
        sentences = _spelled(sentences, Vocabulary.load(tokens))
    model = estimate(sentences, order, prune)
    write_arpa(model, out)
    counts = ", ".join(f"{len(table):,} {n}-grams" for n, table in enumerate(model.ngrams, start=1))
    lines = [f"{out}: {counts}"]
    if model.fallbacks:
        orders = ", ".join(map(str, model.fallbacks))
        lines.append(f"too little text to estimate the discounts of order {orders}: 0.5, 1 and 1.5 were taken")
    if tokens is None:
        words = words_path(out)
        write_text(words, "".join(f"{word}\n" for word in sorted(set(model.words) - set(SPECIAL))))
        lines.append(f"{words}: its words; a lexicon for evaluate.decoding")
    return lines


def words_path(arpa: Path) -> Path:
    """File with the words of a model."""
    return arpa.with_name(f"{arpa.name.removesuffix('.gz').removesuffix('.arpa')}.words.txt")


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write a model, whole or not at all."""
    with atomic_path(path) as partial:
        if path.suffix == ".gz":
            # Without a time stamp or name in it: the same model is the same file.
            with partial.open("wb") as raw, gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
                for line in model.arpa_lines():
                    file.write(line.encode())
        else:
            with partial.open("w", encoding="utf-8") as text:
                text.writelines(model.arpa_lines())


def _sentences(source: Path, normalizer: Normalizer) -> Iterator[str]:
    resolved = source / RESOLVED
    if source.suffix in (".yaml", ".yml"):
        recipe = load_recipe(source, [])
    elif resolved.is_file():
        recipe = load_recipe(resolved, [f"work_dir={source}"])  # the run may have been moved
    else:
        _refuse_evaluation_sets(source)
        return read_sentences(source, normalizer)
    if not (manifests_folder(recipe.work_dir) / VOCABULARY).is_file():
        raise LanguageModelError("its corpus is not prepared", where=source, remedy="Run asr-kd prepare with it first")
    own = recipe.vocabulary.normalizer
    texts = (normalize(utterance.text or "", own) for utterance in read_prepared(recipe.work_dir).train)
    return (text for text in texts if text.strip())


def _refuse_evaluation_sets(folder: Path) -> None:
    """Refuse a folder of transcripts that holds evaluation sets: a model of what it is tested on proves nothing.

    Raises:
        LanguageModelError: a folder named dev… or test… with transcripts lies in it.
    """
    found = folder.rglob("*.trans.txt") if folder.is_dir() else []
    parts = sorted({part for path in found for part in path.relative_to(folder).parts[:-1]})
    held_out = [part for part in parts if EVALUATION.match(part)]
    if held_out:
        raise LanguageModelError(
            f"holds evaluation sets: {', '.join(held_out[:5])}",
            where=folder,
            expected="training text only",
            remedy="Name the training folders, or a run's folder, of which train alone is read",
        )


def _spelled(sentences: Iterator[str], vocabulary: Vocabulary) -> Iterator[str]:
    for sentence in sentences:
        yield " ".join(vocabulary.symbols[token] for token in vocabulary.encode(sentence))
