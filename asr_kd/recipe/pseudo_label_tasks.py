"""The tasks of a recipe's pseudo-labels: transcripts by Whisper, labels from them, outputs on the evaluation sets."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import FolderSettings
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.labelled_sets import labelled_sets, utterances_to_pseudo_label, utterances_to_transcribe
from asr_kd.recipe.pseudo_labels import label_from, transcribe_with
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.store_tasks import StorePlace, sharded_task
from asr_kd.recipe.system_settings import transcripts_task_names
from asr_kd.recipe.teachers import source_hashes, source_in_key
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.pseudo_labelling import PseudoLabelSettings
from asr_kd.targets.shard_manifest import of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import Share
from asr_kd.targets.whisper_transcripts import TRANSCRIPTS_INDEX, TranscriptsInfo, read_transcripts

DECODING = {"source", "agree_with", "language", "beam", "batch", "compute_type"}
"""Settings that decide the transcripts; the others only decide what becomes of them."""
MODELS = ("source", "agree_with", "reading_model")
"""Settings that name models."""


def _models_in_key(context: RunContext, settings: PseudoLabelSettings, fields: Collection[str]) -> dict[str, Any]:
    """Return the settings that name models as cache keys hold them: folders by their content."""
    named = {field: getattr(settings, field) for field in MODELS if field in fields}
    return {field: None if source is None else source_in_key(context, source) for field, source in named.items()}


def pseudo_label_tasks(context: RunContext, name: str, settings: PseudoLabelSettings) -> list[StageTask]:
    """The tasks that make the pseudo-labels called `name`, and their model's outputs on the evaluation sets."""
    sets = labelled_sets(context.recipe)
    of_train, of_evaluation = transcripts_task_names(name)
    train = _transcripts_task(
        context,
        of_train,
        name,
        settings,
        context.folder("transcripts", name),
        lambda: utterances_to_pseudo_label(context),
        lambda: ["train", *sets],
    )
    tasks = [train, _labels_task(context, name, settings)]
    corpus = context.recipe.corpus
    if settings.evaluate and not (isinstance(corpus, FolderSettings) and not corpus.dev and not corpus.test):
        evaluated = _transcripts_task(
            context,
            of_evaluation,
            name,
            settings.model_copy(update={"agree_with": None, "agree_beam": None}),
            context.folder("transcripts", of_evaluation),
            lambda: utterances_to_transcribe(context),
            lambda: [each for each in context.read_corpus()[0].sets if each not in sets],
        )
        tasks.append(evaluated)
    return tasks


def _transcripts_task(
    context: RunContext,
    task: str,
    name: str,
    settings: PseudoLabelSettings,
    folder: Path,
    utterances: Callable[[], Sequence[Utterance]],
    sets: Callable[[], Sequence[str]],
) -> StageTask:
    """The task of this name that transcribes utterances, of these sets, into `folder` for the pseudo-labels `name`."""
    numbers = ("1", "2") if settings.agree_with else ("1",)
    parts = [StorePlace(context, folder / number, TRANSCRIPTS_INDEX) for number in numbers]

    def compute(share: Share) -> ShardReport[TranscriptsInfo]:
        return transcribe_with(
            settings,
            utterances(),
            context.stored_at(folder),
            context.progress,
            share,
            context.should_stop,
            context.recipe.threads or 1,
            str(context.device),
        )

    def check(store: Path | str) -> bool:
        return not of_other_audio(read_transcripts(store)[0].shards, utterances())

    others = _models_in_key(context, settings, DECODING)
    if settings.agree_beam is not None:
        others["agree_beam"] = settings.agree_beam
    models = [settings.source, settings.agree_with]
    return sharded_task(
        parts,
        task,
        name,
        folder,
        compute,
        check,
        {**settings.model_dump(mode="json", include=DECODING), **others},
        {**settings.model_dump(mode="json", include=DECODING, exclude_defaults=True), **others},
        inputs=lambda: context.corpus_hashes(*sets(), spelling=False) + source_hashes(context, models),
    )


def _labels_task(context: RunContext, name: str, settings: PseudoLabelSettings) -> StageTask:
    place = StorePlace(context, context.hypotheses_folder(name), HYPOTHESES_INDEX)
    transcripts = context.stored_at(context.folder("transcripts", name))
    normalizer = context.recipe.vocabulary.normalizer

    def run(folder: Path) -> None:
        _, vocabulary = context.read_corpus()
        utterances = utterances_to_pseudo_label(context)
        for line in label_from(settings, utterances, transcripts, place.store, normalizer, vocabulary):
            context.progress.message(f"  {line}")
        place.write_note()

    def is_intact(store: Path | str) -> bool:
        HypothesisStore.open(store).check_audio(utterances_to_pseudo_label(context))
        return True

    unused = {"evaluate"} if settings.agree_beam else {"evaluate", "agree_beam"}
    others = {**_models_in_key(context, settings, MODELS), "normalizer": normalizer}
    models = [getattr(settings, field) for field in MODELS]
    return StageTask(
        "extract",
        name,
        context.work_dir,
        place.folder,
        settings=place.key_settings({**settings.model_dump(mode="json", exclude=unused), **others}),
        stated=place.key_settings(
            {**settings.model_dump(mode="json", exclude=unused, exclude_defaults=True), **others}
        ),
        inputs=lambda: context.corpus_hashes("train", *labelled_sets(context.recipe)) + source_hashes(context, models),
        run=run,
        results=(place.result,),
        is_intact=lambda: place.is_intact(is_intact),
        owner=name,
    )
