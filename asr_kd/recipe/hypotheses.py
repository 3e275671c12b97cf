"""`asr-kd targets import`: another system's hypotheses for a recipe's training set, or for one manifest."""

from collections.abc import Sequence
from pathlib import Path

from asr_kd.corpora.corpus import manifests_folder, read_prepared
from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.errors import CorpusError, RecipeError
from asr_kd.recipe.layout import VOCABULARY
from asr_kd.recipe.settings import load_recipe
from asr_kd.targets.hypotheses import HypothesisStore
from asr_kd.targets.hypothesis_formats import Form
from asr_kd.targets.importing import import_hypotheses
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary


def import_for(
    source: Path,
    target: Path,
    folder: str,
    form: Form | None,
    normalizer: Normalizer | None,
    min_coverage: float,
) -> list[str]:
    """Import hypotheses and say what came of it, in lines.

    Args:
        source: what another system wrote.
        target: a recipe whose corpus is prepared, or a manifest.
        folder: where to put them.
        form: of the source; None goes by its name.
        normalizer: for a manifest; a recipe has its own.
        min_coverage: share of the utterances that must have hypotheses.

    Raises:
        TargetsError: the source cannot be read or does not fit.
        CorpusError: the target is neither, or the recipe's corpus is not prepared.
    """
    utterances, written, vocabulary = open_target(target, normalizer)
    report = import_hypotheses(source, utterances, folder, written, form, min_coverage)
    lines = report.lines()
    if vocabulary is not None:
        strange = _unknown(HypothesisStore.open(folder), vocabulary)
        if strange:
            lines.append(
                f"{strange} hypotheses hold characters outside the recipe's vocabulary: they will not be taught; a "
                "normalizer in the other system (digits spelled out) may help"
            )
    return lines


def open_target(
    target: Path, normalizer: Normalizer | None
) -> tuple[Sequence[Utterance], Normalizer, Vocabulary | None]:
    """Utterances, normalizer and vocabulary of a recipe's training set, or of a manifest, which has no vocabulary.

    Raises:
        CorpusError: neither, or the corpus is not prepared.
        RecipeError: the recipe has another normalizer.
    """
    if target.suffix in (".yaml", ".yml"):
        recipe = load_recipe(target, [])
        if normalizer is not None and normalizer != recipe.vocabulary.normalizer:
            raise RecipeError(
                f"--normalizer {normalizer}", where=target, expected=f"the recipe's own, {recipe.vocabulary.normalizer}"
            )
        vocabulary = Vocabulary.load(manifests_folder(recipe.work_dir) / VOCABULARY)
        return read_prepared(recipe.work_dir).train, recipe.vocabulary.normalizer, vocabulary
    if target.suffix in (".jsonl", ".json"):
        return read_manifest(target), normalizer or "librispeech", None
    raise CorpusError("is neither a recipe nor a manifest", where=target, expected="a .yaml or a .jsonl file")


def _unknown(store: HypothesisStore, vocabulary: Vocabulary) -> int:
    """Hypotheses that cannot be spelled."""
    return sum(bool(vocabulary.unknown_characters(item.text)) for id_ in store for item in store[id_])
