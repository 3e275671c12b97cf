"""Pseudo-labels of a recipe's training set or a manifest: imported, or transcribed with Whisper, filtered and stored.

The folder of `asr-kd pseudo-label` holds the hypotheses that students read (`students.NAME.hypotheses`), the raw
transcripts of each model below `transcripts/`, and `filters.json` with the yield of every filter. In a recipe the two
steps are two tasks, so that another threshold makes new labels from the existing transcripts."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from asr_kd.corpora.corpus import manifests_folder, read_prepared
from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.settings import FolderSettings
from asr_kd.errors import CorpusError, RecipeError, TargetsError
from asr_kd.files import register_files
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, RunContext
from asr_kd.recipe.extraction import StorePlace, sharded_task
from asr_kd.recipe.labelled_sets import (
    FILTERS,
    labelled_sets,
    reading_scorer,
    utterances_to_label,
    utterances_to_transcribe,
)
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.teachers import source_hashes, source_in_key
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.hypothesis_formats import Form
from asr_kd.targets.importing import SHARD, import_hypotheses, store_labels
from asr_kd.targets.pseudo_labelling import (
    PREFIX,
    LabelSettings,
    PseudoLabelSettings,
    make_pseudo_labels,
)
from asr_kd.targets.shard_manifest import QUARANTINE, of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.whisper_transcripts import (
    TRANSCRIPTS_INDEX,
    TranscriptsInfo,
    read_transcripts,
    transcribe_manifest,
)
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, open_transcriber
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary


def import_for(
    source: Path,
    target: Path,
    folder: str,
    form: Form | None,
    normalizer: Normalizer | None,
    min_coverage: float,
    settings: LabelSettings,
) -> list[str]:
    """Import hypotheses of another system into the store `folder`; return the report's lines.

    Args:
        source: file or folder of hypotheses.
        target: a recipe whose corpus is prepared, or a manifest, which needs the normalizer.
        form: of the source; None: detected from its name.
        min_coverage: share of the utterances that must have hypotheses.
        settings: readings and filters, as of pseudo-labels.

    Raises:
        TargetsError: the source cannot be read, too much is filtered out, or its ids are not those of the utterances.
        CorpusError: the target is neither, or the recipe's corpus is not prepared.
    """
    utterances, written, vocabulary = open_target(target, normalizer)
    scorer = reading_scorer(settings, written)
    return import_hypotheses(source, utterances, folder, written, form, min_coverage, settings, vocabulary, scorer)


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
        train = read_prepared(recipe.work_dir).train
        vocabulary = Vocabulary.load(manifests_folder(recipe.work_dir) / VOCABULARY)
        return train, recipe.vocabulary.normalizer, vocabulary
    if target.suffix in (".jsonl", ".json"):
        return read_manifest(target), normalizer or "librispeech", None
    raise CorpusError("is neither a recipe nor a manifest", where=target, expected="a .yaml or a .jsonl file")


def pseudo_label(
    target: Path,
    settings: PseudoLabelSettings,
    folder: Path,
    progress: Progress,
    normalizer: Normalizer | None = None,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    threads: int = 1,
    device: str = "cpu",
) -> list[str]:
    """Transcribe, choose readings, filter, and store; return the report's lines.

    `target` is a recipe whose corpus is prepared, or a manifest, which needs the normalizer. Labels are made when all
    shares of the transcribing are done.

    Raises:
        TargetsError: too much is filtered out, or a folder holds something else.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    utterances, written, vocabulary = open_target(target, normalizer)
    transcripts = folder / "transcripts"
    report = transcribe_with(settings, utterances, transcripts, progress, share, should_stop, threads, device)
    if not report.complete:
        return [f"{report.share_line()}. Run the command without --share when all shares are done"]
    return label_from(settings, utterances, transcripts, folder, written, vocabulary)


def transcribe_with(
    settings: PseudoLabelSettings,
    utterances: Sequence[Utterance],
    folder: Path | str,
    progress: Progress,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    threads: int = 1,
    device: str = "cpu",
) -> ShardReport[TranscriptsInfo]:
    """Transcribe with each model that the settings name, into `folder`/1 and `folder`/2; the report of the last one.

    Raises:
        TargetsError: a folder holds transcripts of another model, manifest or decoding.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    second = settings.agree_beam or settings.beam
    models = [(settings.source, settings.beam), (settings.agree_with, second)]
    for number, (source, beam) in enumerate(models, start=1):
        if source is None:
            break
        transcriber = open_transcriber(
            TranscriberSettings(
                source.removeprefix(PREFIX),
                settings.language,
                beam,
                settings.compute_type,
                threads,
                device,
                batch=settings.batch,
            )
        )
        report = transcribe_manifest(
            transcriber,
            utterances,
            f"{folder}/{number}",
            share,
            should_stop,
            lambda done, total, source=source: progress.update(source, done, total, "s of audio"),  # type: ignore[misc]
        )
        if not report.complete:
            break
    return report


def label_from(
    settings: PseudoLabelSettings,
    utterances: Sequence[Utterance],
    transcripts: Path | str,
    folder: Path | str,
    normalizer: Normalizer,
    vocabulary: Vocabulary | None,
) -> list[str]:
    """Choose readings, filter, and store the labels of finished transcripts; return the report's lines.

    Raises:
        TargetsError: too much is filtered out, transcripts are missing or damaged, or `folder` holds something else.
    """
    info, first = read_transcripts(f"{transcripts}/1")
    second = read_transcripts(f"{transcripts}/2")[1] if settings.agree_with is not None else None
    scorer = reading_scorer(settings, normalizer)
    labelled = make_pseudo_labels(first, utterances, settings, normalizer, vocabulary, second, scorer)
    if isinstance(folder, Path):
        register_files(folder, (HYPOTHESES_INDEX, SHARD, QUARANTINE, FILTERS))
    store_labels(folder, labelled.texts, utterances, settings.source, info.model_sha256, normalizer, settings)
    content = {
        "steps": [asdict(step) for step in labelled.report.steps],
        "removed": dict(labelled.report.removed),
        "from_transcripts": len(labelled.own_transcripts),
    }
    open_storage(folder).write(FILTERS, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    lines = labelled.report.lines() if labelled.report.steps else []
    if labelled.own_transcripts:
        lines.append(f"{len(labelled.own_transcripts)} utterances keep their own transcripts (transcript_share)")
    return [*lines, f"{len(labelled.texts)} pseudo-labels: {folder}; name it in a student: hypotheses: {folder}"]


DECODING = {"source", "agree_with", "language", "beam", "batch", "compute_type"}
"""Settings that decide the transcripts; the others only decide what becomes of them."""
MODELS = ("source", "agree_with", "reading_model")
"""Settings that name models."""


def _models_in_key(
    context: RunContext, settings: PseudoLabelSettings, fields: Collection[str]
) -> dict[str, str | None]:
    """Return the settings that name models as cache keys hold them: folders by their content."""
    named = {field: getattr(settings, field) for field in MODELS if field in fields}
    return {field: None if source is None else source_in_key(context, source) for field, source in named.items()}


def pseudo_label_tasks(context: RunContext, name: str, settings: PseudoLabelSettings) -> list[StageTask]:
    """The tasks that make the pseudo-labels called `name`, and their model's outputs on the evaluation sets."""
    sets = labelled_sets(context.recipe)
    transcripts = context.folder("transcripts", name)
    train = _transcripts_task(
        context, name, settings, transcripts, lambda: utterances_to_label(context), lambda: ["train", *sets]
    )
    tasks = [train, _labels_task(context, name, settings)]
    corpus = context.recipe.corpus
    if settings.evaluate and not (isinstance(corpus, FolderSettings) and not corpus.dev and not corpus.test):
        evaluated = _transcripts_task(
            context,
            name,
            settings.model_copy(update={"agree_with": None, "agree_beam": None}),
            context.folder("transcripts", f"{name}-evaluation"),
            lambda: utterances_to_transcribe(context),
            lambda: [each for each in context.read_corpus()[0].sets if each not in sets],
            "evaluation",
        )
        tasks.append(evaluated)
    return tasks


def _transcripts_task(
    context: RunContext,
    name: str,
    settings: PseudoLabelSettings,
    folder: Path,
    utterances: Callable[[], Sequence[Utterance]],
    sets: Callable[[], Sequence[str]],
    what: str = "transcripts",
) -> StageTask:
    """Task that transcribes utterances, of these sets, into `folder`."""
    numbers = ("1", "2") if settings.agree_with else ("1",)
    parts = [StorePlace(context, folder / number, TRANSCRIPTS_INDEX) for number in numbers]
    place = context.stored_at(folder)

    def compute(share: Share) -> ShardReport[TranscriptsInfo]:
        return transcribe_with(
            settings,
            utterances(),
            place,
            context.progress,
            share,
            lambda: context.should_stop() is not None,
            context.recipe.threads or 1,
            context.device.type,
        )

    def write_notes(report: ShardReport[TranscriptsInfo]) -> None:
        for part in parts:
            part.write_note()

    def is_intact() -> bool:
        try:
            if not all(part.is_as_noted() for part in parts):
                return False
            read = [read_transcripts(part.store)[0] for part in parts]
        except TargetsError:
            return False
        found = utterances()
        return not any(of_other_audio(info.shards, found) for info in read)

    plain = {**settings.model_dump(mode="json", include=DECODING), **_models_in_key(context, settings, DECODING)}
    if settings.agree_beam is not None:
        plain["agree_beam"] = settings.agree_beam
    models = [settings.source, settings.agree_with]
    return sharded_task(
        context,
        f"{name}-{what}",
        name,
        folder,
        compute,
        write_notes,
        settings=parts[0].key_settings(plain),
        inputs=lambda: context.corpus_hashes(*sets(), spelling=False) + source_hashes(context, models),
        results=tuple(part.result for part in parts),
        is_intact=is_intact,
    )


def _labels_task(context: RunContext, name: str, settings: PseudoLabelSettings) -> StageTask:
    place = StorePlace(context, context.hypotheses_folder(name), HYPOTHESES_INDEX)
    transcripts = context.stored_at(context.folder("transcripts", name))
    normalizer = context.recipe.vocabulary.normalizer

    def run(folder: Path) -> None:
        _, vocabulary = context.read_corpus()
        utterances = utterances_to_label(context)
        for line in label_from(settings, utterances, transcripts, place.store, normalizer, vocabulary):
            context.progress.message(f"  {line}")
        place.write_note()

    def is_intact() -> bool:
        try:
            if not place.is_as_noted():
                return False
            labels = HypothesisStore.open(place.store)
            labels.check_audio(utterances_to_label(context))
        except TargetsError:
            return False
        return labels.info.complete

    plain = {
        **settings.model_dump(mode="json", exclude={"evaluate"} if settings.agree_beam else {"evaluate", "agree_beam"}),
        **_models_in_key(context, settings, MODELS),
        "normalizer": normalizer,
    }
    models = [getattr(settings, field) for field in MODELS]
    return StageTask(
        "extract",
        name,
        context.work_dir,
        place.folder,
        settings=place.key_settings(plain),
        inputs=lambda: context.corpus_hashes("train", *labelled_sets(context.recipe)) + source_hashes(context, models),
        run=run,
        results=(place.result,),
        is_intact=is_intact,
        owner=name,
    )
