"""A recipe's corpus and vocabulary: the stage prepare, and `asr-kd check`, which also takes manifests and folders."""

from pathlib import Path

from asr_kd.corpora.additions import add_further_speech, add_untranscribed
from asr_kd.corpora.corpus import PreparedCorpus, is_prepared, manifests_folder, write_prepared
from asr_kd.corpora.fingerprint import fingerprint
from asr_kd.corpora.formats.catalogue import complete, is_manifest, read_table
from asr_kd.corpora.manifest import Utterance, hours
from asr_kd.corpora.prepare import prepare
from asr_kd.corpora.recordings import Exclusion, measure, refuse_too_many
from asr_kd.corpora.settings import FURTHER_SPEECH, UNTRANSCRIBED, SyntheticSettings
from asr_kd.corpora.synthetic import DESCRIPTION as SYNTHETIC
from asr_kd.corpora.synthetic import synthetic_folder
from asr_kd.corpora.utterance_checks import CheckReport, check_utterances, untrainable
from asr_kd.errors import CorpusError, RecipeError
from asr_kd.files import register_files
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, RunContext
from asr_kd.recipe.folder_utterances import recordings_in
from asr_kd.recipe.packaged_recipes import is_recipe
from asr_kd.recipe.settings import Recipe, load_recipe
from asr_kd.recipe.stage import StageTask
from asr_kd.text.bpe import MODEL as BPE
from asr_kd.text.settings import build_vocabulary, vocabulary_fingerprint
from asr_kd.text.vocabulary import Vocabulary


def prepare_task(context: RunContext) -> StageTask:
    """Task that writes the manifests of a recipe's corpus, and the vocabulary."""
    recipe, folder = context.recipe, manifests_folder(context.work_dir)
    given = {UNTRANSCRIBED: recipe.untranscribed, FURTHER_SPEECH: recipe.further_speech}
    additions = {name: extra for name, extra in given.items() if extra is not None}
    results = [folder / "corpus.json", folder / VOCABULARY]
    if isinstance(recipe.corpus, SyntheticSettings):
        results.append(synthetic_folder(recipe.corpus, context.work_dir) / SYNTHETIC)

    def run(folder: Path) -> None:
        corpus = _prepared(recipe, context.progress)
        vocabulary = build_vocabulary(recipe.vocabulary, [u.text for u in corpus.train if u.text])
        _refuse_untrainable(context, corpus, vocabulary)
        files = [VOCABULARY, *([BPE] if vocabulary.bpe is not None else [])]
        register_files(folder, files)
        vocabulary.save(folder / VOCABULARY)
        write_prepared(corpus, context.work_dir, files)
        report_corpus(context.progress, folder, corpus, vocabulary)

    return StageTask(
        "prepare",
        "prepare",
        context.work_dir,
        folder,
        settings={
            "corpus": recipe.corpus.key_settings(),
            "vocabulary": recipe.vocabulary.model_dump(mode="json"),
            **{name: extra.key_settings() for name, extra in additions.items()},
        },
        inputs=lambda: [
            fingerprint(recipe.corpus),
            vocabulary_fingerprint(recipe.vocabulary),
            *map(fingerprint, additions.values()),
        ],
        run=run,
        results=tuple(results),
        keep_previous=False,
        is_intact=lambda: is_prepared(context.work_dir),
    )


def _refuse_untrainable(context: RunContext, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    """Refuse transcripts of which more than `max_excluded_share` cannot be trained on, where any model needs them.

    Raises:
        CorpusError: the vocabulary or the normalizer is another one than the transcripts need.
    """
    recipe = context.recipe
    if not recipe.trained_on_transcripts:
        return
    transcribed = [utterance for utterance in corpus.train if utterance.text is not None]
    if not transcribed:
        names = ", ".join(recipe.trained_on_transcripts)
        raise CorpusError(
            f"no utterance of the training set has a transcript, which the training of {names} needs",
            where=manifests_folder(context.work_dir),
            expected="transcripts, or models that are trained on a teacher's posteriors or pseudo-labels alone",
            remedy="Set distill.kd_weight to 1 for these students and leave out those without distill; or make "
            "pseudo-labels (asr-kd pseudo-label)",
        )
    settings = {"corpus": recipe.corpus, FURTHER_SPEECH: recipe.further_speech}
    for key, utterances in {"corpus": transcribed, FURTHER_SPEECH: corpus.further_speech}.items():
        found = untrainable(utterances, vocabulary, recipe.vocabulary.normalizer)
        refuse_too_many(
            found,
            len(utterances),
            getattr(settings[key], "max_excluded_share", 0.0),
            manifests_folder(context.work_dir),
            "Correct vocabulary.path, vocabulary.normalizer or the transcripts (asr-kd check lists them), or raise "
            f"{key}.max_excluded_share to train without them",
            "whose transcript the vocabulary cannot spell or CTC cannot emit",
        )
        if found:
            context.progress.message(
                f"  {len(found)} transcripts cannot be trained on, such as {found[0].id}: {found[0].reason}; asr-kd "
                "check lists them"
            )


def _prepared(recipe: Recipe, progress: Progress, max_excluded_share: float | None = None) -> PreparedCorpus:
    corpus = prepare(recipe.corpus, recipe.work_dir, progress, max_excluded_share=max_excluded_share)
    if recipe.untranscribed is not None:
        corpus = add_untranscribed(corpus, recipe.untranscribed, progress, max_excluded_share=max_excluded_share)
    if recipe.further_speech is not None:
        corpus = add_further_speech(corpus, recipe.further_speech, max_excluded_share=max_excluded_share)
    return corpus


def report_corpus(progress: Progress, folder: Path, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    """Report sizes of the sets, absent sets, and the utterances that were left out."""
    for name, members in corpus.manifests.items():
        speakers = len({utterance.speaker for utterance in members})
        progress.message(f"  {name}: {len(members)} utterances, {hours(members):.2f} h, {speakers} speakers")
    for name, reason in corpus.absent.items():
        progress.message(f"  {name}: {reason}")
    if corpus.excluded:
        progress.message(f"  {len(corpus.excluded)} left out, listed in {folder / 'corpus.json'}")
    progress.message(f"  vocabulary: {len(vocabulary)} symbols")


def check_target(target: Path, overrides: list[str], read_audio: bool, progress: Progress) -> CheckReport:
    """Check a recipe's corpus (training vocabulary against every set), a manifest, or a folder of audio.

    Raises:
        CorpusError: the target is none of these.
        AsrKdError: the recipe, the corpus or the manifest cannot be read at all.
    """

    def report(done: int, total: int) -> None:
        progress.update("check", done, total, "utterances")

    if is_recipe(target):
        recipe = load_recipe(target, overrides)
        corpus = _prepared(recipe, progress, max_excluded_share=1.0)
        texts = [u.text for u in corpus.train if u.text]
        spelled = texts or not recipe.vocabulary.needs_transcripts
        vocabulary = build_vocabulary(recipe.vocabulary, texts) if spelled else None  # audio alone can be checked too
        normalizer, sets = recipe.vocabulary.normalizer, corpus.manifests
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
    return *measure(recordings_in(path)), "unusable audio"
