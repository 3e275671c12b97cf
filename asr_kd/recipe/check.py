"""`asr-kd check`: a recipe's whole corpus, or one manifest, through `corpora.check`."""

from pathlib import Path

from asr_kd.corpora.check import CheckReport, check_utterances
from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.prepare import prepare
from asr_kd.errors import CorpusError, RecipeError
from asr_kd.progress import Progress
from asr_kd.recipe.settings import load_recipe
from asr_kd.text.normalize import normalize
from asr_kd.text.vocabulary import Vocabulary


def check_target(target: Path, overrides: list[str], read_audio: bool, progress: Progress) -> CheckReport:
    """Check a recipe's corpus (training vocabulary against every set) or a manifest.

    Raises:
        CorpusError: the target is neither.
        AsrKdError: the recipe or the corpus cannot be read at all.
    """
    if target.suffix in (".yaml", ".yml"):
        recipe = load_recipe(target, overrides)
        normalizer = recipe.vocabulary.normalizer
        corpus = prepare(recipe.corpus, recipe.work_dir, progress, max_excluded_share=1.0)
        utterances, excluded = corpus.utterances, corpus.excluded
        vocabulary = Vocabulary.characters(normalize(u.text, normalizer) for u in corpus.train if u.text)
    elif target.suffix in (".jsonl", ".json"):
        if overrides:
            raise RecipeError(
                f"override {overrides[0]!r}", where=target, expected="no overrides: they belong to recipes"
            )
        utterances, vocabulary, normalizer, excluded = read_manifest(target), None, "librispeech", []
    else:
        raise CorpusError("is neither a recipe nor a manifest", where=target, expected="a .yaml or a .jsonl file")

    def report(done: int, total: int) -> None:
        progress.update("check", done, total, "utterances")

    found = check_utterances(utterances, vocabulary, normalizer, read=read_audio, progress=report)
    return found.including(excluded)
