"""`asr-kd lm build`: an n-gram model from transcripts or text; `asr-kd tune`: its weight for each system."""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.corpus import manifests_folder, read_prepared
from asr_kd.corpora.formats.catalogue import detect, is_manifest, read_table
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import read_utterance
from asr_kd.decoding.beam import BeamSearch
from asr_kd.decoding.settings import LARGEST_WEIGHT
from asr_kd.errors import AudioError, EvaluationError, LanguageModelError, RecipeError
from asr_kd.evaluation.open_systems import TeacherRecognizer
from asr_kd.evaluation.tuning import LM_WEIGHTS, WORD_SCORES, DevSet, tune
from asr_kd.features.fbank import batches_by_duration
from asr_kd.files import atomic_path, register_files, write_text
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, RunContext, choose_device
from asr_kd.recipe.packaged_recipes import is_recipe
from asr_kd.recipe.settings import Recipe, load_recipe
from asr_kd.recipe.systems import absent_systems, open_recipe_system, write_tuned
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.text.kneser_ney import SPECIAL, NgramModel, estimate, read_sentences
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import Vocabulary

EVALUATION = re.compile(r"(dev|test|eval)([-_.].*)?$", re.IGNORECASE)
"""Names of folders that hold evaluation sets."""
WORSE_THAN_GREEDY = "the beam search is worse than greedy decoding: does the lexicon hold the words of dev?"


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
    sentences: Iterator[str] = (sentence for source in sources for sentence in training_sentences(source, normalizer))
    if tokens is not None:
        vocabulary = Vocabulary.load(tokens)
        sentences = (" ".join(vocabulary.symbols[token] for token in vocabulary.encode(text)) for text in sentences)
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


def training_sentences(source: Path, normalizer: Normalizer) -> Iterator[str]:
    """Return the normalized sentences of a source of `build_lm`.

    Raises:
        LanguageModelError: no text, or a folder that holds evaluation sets.
    """
    if is_recipe(source):
        recipe = load_recipe(source, [])
    elif (source / RESOLVED).is_file():
        recipe = _recipe_of_run(source)
    else:
        _refuse_evaluation_sets(source)
        return _sentences_of_manifest(source, normalizer) or read_sentences(source, normalizer)
    if not (manifests_folder(recipe.work_dir) / VOCABULARY).is_file():
        raise LanguageModelError("its corpus is not prepared", where=source, remedy="Run asr-kd prepare with it first")
    own = recipe.vocabulary.normalizer
    texts = [normalize(utterance.text or "", own) for utterance in read_prepared(recipe.work_dir).train]
    if not any(text.strip() for text in texts):
        raise LanguageModelError(
            "its training set has no transcripts",
            where=source,
            expected="text",
            remedy="Name text of the same domain (.txt, one sentence a line), or a manifest with transcripts",
        )
    return (text for text in texts if text.strip())


def _sentences_of_manifest(source: Path, normalizer: Normalizer) -> Iterator[str] | None:
    """Texts of a manifest of another tool; None for anything else, and for JSON Lines with a `text`.

    Raises:
        CorpusError: a manifest that is malformed.
        LanguageModelError: rows that are no utterances, or a data folder of Kaldi without `text`.
    """
    if not is_manifest(source):
        return None
    form = detect(source)
    if form == "kaldi":
        return read_sentences((source if source.is_dir() else source.parent) / "text", normalizer)
    if form == "asr-kd" and ".jsonl" in source.name:
        return None
    table = read_table(source, "auto", channels="mean")
    if table.excluded:
        raise LanguageModelError(
            f"{len(table.excluded)} rows are no utterances; the first: {table.excluded[0].reason}",
            where=source,
            expected="rows of one recording and one transcript",
            remedy="Leave them out, or name the text alone (.txt, one sentence a line)",
        )
    texts = (normalize(recording.text or "", normalizer) for recording in table.recordings)
    return (text for text in texts if text.strip())


def _recipe_of_run(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run by its folder, which may have been moved since."""
    return load_recipe(folder / RESOLVED, [f"work_dir={json.dumps(str(folder), ensure_ascii=False)}", *overrides])


def _refuse_evaluation_sets(folder: Path) -> None:
    """Refuse a folder of transcripts that holds evaluation sets: what learned the text of a test proves nothing.

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


RESOLVED = "recipe.resolved.yaml"


def tune_recipe(
    target: Path,
    overrides: Sequence[str],
    only: Sequence[str],
    progress: Progress,
    lm_weights: Sequence[float] = LM_WEIGHTS,
    word_scores: Sequence[float] = WORD_SCORES,
) -> list[str]:
    """Tune every trained system, or those of `only`, and write the weights for evaluation; return report lines.

    `target` is a recipe or the folder of a run; `lm_weights` and `word_scores` are the first grid.

    Raises:
        RecipeError: no such run or recipe, a weight that decoding refuses, `evaluate.decoding` has nothing to tune, or
            `only` names a system that does not exist.
        EvaluationError: a dev set without transcripts.
        LanguageModelError: the LM or lexicon cannot be read, or does not fit.
    """
    for what, values, least in (("LM weight", lm_weights, 0), ("word score", word_scores, -LARGEST_WEIGHT)):
        outside = [value for value in values if not least <= value <= LARGEST_WEIGHT]
        if outside:
            raise RecipeError(f"the {what} {outside[0]:g} cannot be used", expected=f"{least} to {LARGEST_WEIGHT}")
    if target.is_dir() and not (target / RESOLVED).is_file():
        raise RecipeError(f"has no {RESOLVED}", where=target, expected="the folder of a run, or a recipe")
    recipe = _recipe_of_run(target, overrides) if target.is_dir() else load_recipe(target, list(overrides))
    if not recipe.evaluate.decoding.is_tunable:
        raise RecipeError(
            "there is nothing to tune",
            where="evaluate.decoding",
            expected="kind: beam with an lm, a lexicon or both",
            remedy="Name them: asr-kd tune RECIPE evaluate.decoding.kind=beam evaluate.decoding.lm=FILE …",
        )
    context = RunContext(recipe, progress, choose_device(recipe.device))
    context.use_threads()
    absent = absent_systems(context)
    names = [name for name in [*recipe.teachers, *recipe.students] if name not in absent]
    unknown = [name for name in only if name not in names]
    if unknown or not names:
        raise RecipeError(
            f"{unknown[0] if unknown else 'no system'} is not trained yet",
            expected=", ".join(names) or "a trained model",
        )
    corpus, _ = context.read_corpus()
    lines = []
    for name in [name for name in names if name in only or not only]:
        lines += _tune_one(context, name, corpus.dev, (lm_weights, word_scores))
    return lines


def _tune_one(
    context: RunContext, name: str, dev: Sequence[Utterance], grid: tuple[Sequence[float], Sequence[float]]
) -> list[str]:
    system = open_recipe_system(context, name)
    recognizer = system.recognizer
    if not isinstance(recognizer, Recognizer | TeacherRecognizer) or not isinstance(recognizer.decoder, BeamSearch):
        raise RecipeError(f"{name} is not decoded by a beam search", where="evaluate.decoding")
    dev_set, left_out = _compute_posteriors(context, name, recognizer, dev)

    def report(done: int, total: int) -> None:
        context.progress.update(f"tune {name}", done, total, "points")

    normalizer = context.recipe.evaluate.normalizer
    with torch.inference_mode():
        tuning = tune(recognizer.decoder, dev_set, normalizer, *grid, progress=report)
    settings = recognizer.decoder.settings.model_copy(
        update={"lm_weight": tuning.best.lm_weight, "word_score": tuning.best.word_score}
    )
    facts = {
        "dev": {
            "utterances": len(dev_set.references),
            "words": tuning.words,
            "left_out": left_out,
            "normalizer": normalizer,
            "greedy_wer": tuning.greedy_wer,
            "wer": tuning.best.wer,
        },
        "tried": [item._asdict() for item in tuning.tried],
    }
    path = write_tuned(context, name, settings, facts)
    best = tuning.best
    return [
        f"{name}: WER in percent on dev ({len(dev_set.references)} utterances, {tuning.words} words, {normalizer})",
        *tuning.lines(),
        f"greedy {100 * tuning.greedy_wer:.2f} %, beam {100 * best.wer:.2f} % with lm_weight {best.lm_weight:g} and "
        f"word_score {best.word_score:g} → {path}",
        *([WORSE_THAN_GREEDY] if tuning.is_worse_than_greedy else []),
        *([f"left out: {len(left_out)} utterances ({'; '.join(left_out[:3])})"] if left_out else []),
    ]


def _compute_posteriors(
    context: RunContext, name: str, recognizer: Recognizer | TeacherRecognizer, dev: Sequence[Utterance]
) -> tuple[DevSet, list[str]]:
    """Posteriors of the dev set, and the utterances that were left out, with reasons."""
    waveforms, references, left_out = {}, {}, []
    for utterance in dev:
        if utterance.text is None:
            left_out.append(f"{utterance.id}: no transcript")
            continue
        try:
            waveforms[utterance.id] = read_utterance(utterance)
            references[utterance.id] = utterance.text
        except AudioError as error:
            left_out.append(f"{utterance.id}: {error}")
    if not references:
        raise EvaluationError("no dev utterance can be used", expected="transcripts", where="; ".join(left_out[:3]))
    posteriors: dict[str, Tensor] = {}
    ids = list(waveforms)
    limit = context.recipe.evaluate.batch_seconds * SAMPLE_RATE
    for batch in batches_by_duration([len(waveforms[key]) for key in ids], limit):
        output = recognizer.log_probs([waveforms[ids[index]] for index in batch])
        for row, index in enumerate(batch):
            posteriors[ids[index]] = output.log_probs[row, : int(output.lens[row])].float().cpu().clone()
        context.progress.update(f"posteriors of dev, {name}", len(posteriors), len(ids), "utterances")
    return DevSet(posteriors, references), left_out
