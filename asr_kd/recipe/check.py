"""`asr-kd check`: a recipe's whole corpus, a manifest of any format, or a folder of audio, through `corpora.check`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr_kd.corpora.folder import list_folder
from asr_kd.corpora.formats.catalogue import complete, is_manifest, read_table
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.prepare import add_untranscribed, prepare
from asr_kd.corpora.recordings import Exclusion, measure
from asr_kd.corpora.settings import UNTRANSCRIBED, FolderSettings
from asr_kd.corpora.utterance_checks import CheckReport, check_utterances
from asr_kd.errors import CorpusError, RecipeError
from asr_kd.progress import Progress
from asr_kd.recipe.settings import load_recipe
from asr_kd.text.normalize import Normalizer
from asr_kd.text.settings import build_vocabulary
from asr_kd.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class _Target:
    """Utterances to check, with vocabulary and normalizer."""

    utterances: Sequence[Utterance]
    vocabulary: Vocabulary | None = None
    normalizer: Normalizer = "librispeech"
    excluded: Sequence[Exclusion] = field(default_factory=list)
    why_excluded: str = "left out by prepare"
    sets: Mapping[str, Sequence[Utterance]] | None = None


def check_target(target: Path, overrides: list[str], read_audio: bool, progress: Progress) -> CheckReport:
    """Check a recipe's corpus (training vocabulary against every set), a manifest, or a folder of audio.

    Raises:
        CorpusError: the target is none of these.
        AsrKdError: the recipe, the corpus or the manifest cannot be read at all.
    """
    if target.suffix in (".yaml", ".yml"):
        found = _recipe(target, overrides, progress)
    elif overrides:
        raise RecipeError(f"override {overrides[0]!r}", where=target, expected="no overrides: they belong to recipes")
    else:
        found = _manifest_or_folder(target)

    def report(done: int, total: int) -> None:
        progress.update("check", done, total, "utterances")

    checked = check_utterances(
        found.utterances,
        found.vocabulary,
        found.normalizer,
        read=read_audio,
        sets=found.sets,
        progress=report,
    )
    return checked.including(found.excluded, found.why_excluded)


def _recipe(path: Path, overrides: list[str], progress: Progress) -> _Target:
    recipe = load_recipe(path, overrides)
    normalizer = recipe.vocabulary.normalizer
    corpus = prepare(recipe.corpus, recipe.work_dir, progress, max_excluded_share=1.0)
    if recipe.untranscribed is not None:
        corpus = add_untranscribed(corpus, recipe.untranscribed, progress, max_excluded_share=1.0)
    texts = [u.text for u in corpus.train if u.text]
    spelled = texts or recipe.vocabulary.alphabet or recipe.vocabulary.path
    vocabulary = build_vocabulary(recipe.vocabulary, texts) if spelled else None  # audio alone can be checked too
    more = {UNTRANSCRIBED: corpus.untranscribed} if corpus.untranscribed else {}
    sets = {"train": corpus.train, **more, **corpus.sets}
    return _Target(corpus.utterances, vocabulary, normalizer, corpus.excluded, sets=sets)


def _manifest_or_folder(path: Path) -> _Target:
    if is_manifest(path):
        table = read_table(path, "auto")
        utterances, excluded = complete(table.recordings, "refuse")
        return _Target(utterances, excluded=[*table.excluded, *excluded], why_excluded="not an utterance")
    if not path.is_dir():
        raise CorpusError(
            "is neither a recipe nor a manifest",
            where=path,
            expected="a .yaml, JSON Lines (ours, lhotse's or NeMo's), a .csv of SpeechBrain, a data folder of Kaldi, "
            "or a folder of audio",
        )
    utterances, excluded = measure(list_folder(path, FolderSettings(train=[path], dev=[path])))
    return _Target(utterances, excluded=excluded, why_excluded="unusable audio")
