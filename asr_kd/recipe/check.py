"""`asr-kd check`: a recipe's whole corpus, a manifest of any format, or a folder of audio."""

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
from asr_kd.text.settings import build_vocabulary


def check_target(target: Path, overrides: list[str], read_audio: bool, progress: Progress) -> CheckReport:
    """Check a recipe's corpus (training vocabulary against every set), a manifest, or a folder of audio.

    Raises:
        CorpusError: the target is none of these.
        AsrKdError: the recipe, the corpus or the manifest cannot be read at all.
    """

    def report(done: int, total: int) -> None:
        progress.update("check", done, total, "utterances")

    if target.suffix in (".yaml", ".yml"):
        recipe = load_recipe(target, overrides)
        corpus = prepare(recipe.corpus, recipe.work_dir, progress, max_excluded_share=1.0)
        if recipe.untranscribed is not None:
            corpus = add_untranscribed(corpus, recipe.untranscribed, progress, max_excluded_share=1.0)
        texts = [u.text for u in corpus.train if u.text]
        spelled = texts or recipe.vocabulary.alphabet or recipe.vocabulary.path
        vocabulary = build_vocabulary(recipe.vocabulary, texts) if spelled else None  # audio alone can be checked too
        more = {UNTRANSCRIBED: corpus.untranscribed} if corpus.untranscribed else {}
        sets, normalizer = {"train": corpus.train, **more, **corpus.sets}, recipe.vocabulary.normalizer
        checked = check_utterances(
            corpus.utterances, vocabulary, normalizer, read=read_audio, sets=sets, progress=report
        )
        return checked.including(corpus.excluded)
    if overrides:
        raise RecipeError(f"override {overrides[0]!r}", where=target, expected="no overrides: they belong to recipes")
    utterances, excluded, why_excluded = _manifest_or_folder(target)
    checked = check_utterances(utterances, None, "librispeech", read=read_audio, progress=report)
    return checked.including(excluded, why_excluded)


def _manifest_or_folder(path: Path) -> tuple[list[Utterance], list[Exclusion], str]:
    """Utterances, what is left out, and why."""
    if is_manifest(path):
        table = read_table(path, "auto")
        utterances, excluded = complete(table.recordings, "refuse")
        return utterances, [*table.excluded, *excluded], "not an utterance"
    if not path.is_dir():
        raise CorpusError(
            "is neither a recipe nor a manifest",
            where=path,
            expected="a .yaml, JSON Lines (ours, lhotse's or NeMo's), a .csv of SpeechBrain, a data folder of Kaldi, "
            "or a folder of audio",
        )
    return *measure(list_folder(path, FolderSettings(train=[path], dev=[path]))), "unusable audio"
