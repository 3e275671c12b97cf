"""Pseudo-labels of a recipe's training set or a manifest: imported, or transcribed with Whisper, filtered and stored.

The folder of `asr-kd pseudo-label` holds the hypotheses that students read (`students.NAME.hypotheses`), the raw
transcripts of each model below `transcripts/`, and `filters.json` with the yield of every filter. In a recipe the two
steps are two tasks, so that another threshold makes new labels from the existing transcripts."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_kd.corpora.corpus import manifests_folder, read_prepared
from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.settings import FolderSettings
from asr_kd.errors import CorpusError, RecipeError, TargetsError
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.files import register_files
from asr_kd.models.subsampling import output_len
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, RunContext, corpus_hashes, hypotheses_folder, read_corpus, stored_at
from asr_kd.recipe.extraction import PLACE, is_at_url, note_place, sharded_task
from asr_kd.recipe.labelled_sets import (
    FILTERS,
    labelled_sets,
    reading_scorer,
    utterances_to_label,
    utterances_to_transcribe,
)
from asr_kd.recipe.model_sources import source_hashes, source_in_key
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.stage import StageTask
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.hypothesis_formats import Form
from asr_kd.targets.importing import SHARD, import_hypotheses, store_labels
from asr_kd.targets.pseudo_labelling import (
    PREFIX,
    Alphabet,
    LabelSettings,
    PseudoLabelled,
    PseudoLabelSettings,
    make_pseudo_labels,
)
from asr_kd.targets.shard_manifest import QUARANTINE, of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.whisper_transcripts import TRANSCRIPTS_INDEX, read_transcripts, transcribe_manifest
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, open_transcriber
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary, min_ctc_frames


def import_for(
    source: Path,
    target: Path,
    folder: str,
    form: Form | None,
    normalizer: Normalizer | None,
    min_coverage: float,
    settings: LabelSettings,
) -> list[str]:
    """Import hypotheses of another system; return the report's lines.

    Args:
        source: file or folder of hypotheses.
        target: a recipe whose corpus is prepared, or a manifest.
        folder: the new store of hypotheses.
        form: of the source; None: detected from its name.
        normalizer: for a manifest; a recipe has its own.
        min_coverage: share of the utterances that must have hypotheses.
        settings: readings and filters, as of pseudo-labels.

    Raises:
        TargetsError: the source cannot be read, too much is filtered out, or its ids are not those of the utterances.
        CorpusError: the target is neither, or the recipe's corpus is not prepared.
    """
    utterances, written, vocabulary = open_target(target, normalizer)
    alphabet = Alphabet(written, vocabulary, _fits_ctc if vocabulary is not None else None, settings.language or "en")
    scorer = reading_scorer(settings, written)
    return import_hypotheses(
        source, utterances, folder, written, form, min_coverage, settings, alphabet, scorer
    ).lines()


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

    Args:
        target: a recipe whose corpus is prepared, or a manifest.
        settings: model, readings, filters.
        folder: the folder to write.
        progress: for messages and progress bars.
        normalizer: for a manifest; a recipe has its own.
        share: the part of the transcribing that this process does; labels are made when all shares are done.
        should_stop: called between utterances.
        threads: of CTranslate2.
        device: cpu or cuda.

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
) -> ShardReport:
    """Transcribe with each model that the settings name, into `folder`/1 and `folder`/2; the report of the last one.

    Raises:
        TargetsError: a folder holds transcripts of another model, manifest or decoding.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    for number, source in enumerate(filter(None, (settings.source, settings.agree_with)), start=1):
        transcriber = open_transcriber(
            TranscriberSettings(
                source.removeprefix(PREFIX),
                settings.language,
                settings.beam,
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
    alphabet = Alphabet(normalizer, vocabulary, _fits_ctc, settings.language or "en")
    labelled = make_pseudo_labels(first, utterances, settings, alphabet, second, reading_scorer(settings, normalizer))
    if isinstance(folder, Path):
        register_files(folder, (HYPOTHESES_INDEX, SHARD, QUARANTINE, FILTERS))
    store_labels(folder, labelled.texts, utterances, settings.source, info.model_sha256, normalizer, settings)
    open_storage(folder).write(FILTERS, _as_json(labelled).encode())
    return _lines(labelled, folder)


def _fits_ctc(tokens: Sequence[int], utterance: Utterance) -> bool:
    return min_ctc_frames(tokens) <= output_len(num_frames(int(utterance.duration * SAMPLE_RATE)))


def _as_json(labelled: PseudoLabelled) -> str:
    content = {
        "steps": [asdict(step) for step in labelled.report.steps],
        "removed": dict(labelled.report.removed),
        "from_transcripts": labelled.from_transcripts,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _lines(labelled: PseudoLabelled, folder: Path | str) -> list[str]:
    lines = labelled.report.lines() if labelled.report.steps else []
    if labelled.from_transcripts:
        lines.append(f"{labelled.from_transcripts} utterances keep their own transcripts (transcript_share)")
    lines.append(f"{len(labelled.texts)} pseudo-labels: {folder}; name it in a student: hypotheses: {folder}")
    return lines


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
    train = _Transcribed(
        f"{name}-transcripts",
        _transcripts_folder(context, name),
        lambda: utterances_to_label(context),
        lambda: ["train", *labelled_sets(context.recipe)],
    )
    tasks = [_transcripts_task(context, name, settings, train), _labels_task(context, name, settings)]
    corpus = context.recipe.corpus
    if settings.evaluate and not (isinstance(corpus, FolderSettings) and not corpus.dev and not corpus.test):
        evaluated = _Transcribed(
            f"{name}-evaluation",
            context.folder("transcripts", f"{name}-evaluation"),
            lambda: utterances_to_transcribe(context),
            lambda: [each for each in read_corpus(context)[0].sets if each not in labelled_sets(context.recipe)],
        )
        tasks.append(_transcripts_task(context, name, settings.model_copy(update={"agree_with": None}), evaluated))
    return tasks


@dataclass(frozen=True)
class _Transcribed:
    """The utterances that a task transcribes."""

    task: str
    folder: Path
    utterances: Callable[[], Sequence[Utterance]]
    sets: Callable[[], Sequence[str]]  # names of their manifests


def _transcripts_folder(context: RunContext, name: str) -> Path:
    return context.folder("transcripts", name)


def _transcripts_task(
    context: RunContext, name: str, settings: PseudoLabelSettings, transcribed: _Transcribed
) -> StageTask:
    parts = [transcribed.folder / number for number in ("1", *(["2"] if settings.agree_with else []))]
    at_url = context.recipe.store_url is not None
    place = stored_at(context, transcribed.folder)
    stop = lambda: context.should_stop() is not None  # noqa: E731
    threads, device = context.recipe.threads or 1, context.device.type

    def compute(share: Share) -> ShardReport:
        found = transcribed.utterances()
        return transcribe_with(settings, found, place, context.progress, share, stop, threads, device)

    def note_places(report: ShardReport) -> None:
        for part in parts:
            note_place(context, part, TRANSCRIPTS_INDEX)

    def is_intact() -> bool:
        try:
            if at_url and not all(is_at_url(part, TRANSCRIPTS_INDEX) for part in parts):
                return False
            read = [read_transcripts(stored_at(context, part))[0] for part in parts]
        except TargetsError:
            return False
        utterances = transcribed.utterances()
        return not any(of_other_audio(info.shards, utterances) for info in read)

    plain = {**settings.model_dump(mode="json", include=DECODING), **_models_in_key(context, settings, DECODING)}
    models = [settings.source, settings.agree_with]
    return sharded_task(
        context,
        transcribed.task,
        name,
        transcribed.folder,
        compute,
        note_places,
        settings={**plain, "store_url": context.recipe.store_url} if at_url else plain,
        inputs=lambda: corpus_hashes(context, *transcribed.sets(), spelling=False) + source_hashes(context, models),
        results=tuple(part / (PLACE if at_url else TRANSCRIPTS_INDEX) for part in parts),
        is_intact=is_intact,
    )


def _labels_task(context: RunContext, name: str, settings: PseudoLabelSettings) -> StageTask:
    folder, at_url = hypotheses_folder(context, name), context.recipe.store_url is not None
    transcripts, store = stored_at(context, _transcripts_folder(context, name)), stored_at(context, folder)
    normalizer = context.recipe.vocabulary.normalizer

    def run(folder: Path) -> None:
        _, vocabulary = read_corpus(context)
        for line in label_from(settings, utterances_to_label(context), transcripts, store, normalizer, vocabulary):
            context.progress.message(f"  {line}")
        note_place(context, folder, HYPOTHESES_INDEX)

    def is_intact() -> bool:
        try:
            if at_url and not is_at_url(folder, HYPOTHESES_INDEX):
                return False
            labels = HypothesisStore.open(store)
            labels.check_audio(utterances_to_label(context))
        except TargetsError:
            return False
        return labels.info.complete

    plain = {
        **settings.model_dump(mode="json", exclude={"evaluate"}),
        **_models_in_key(context, settings, MODELS),
        "normalizer": normalizer,
    }
    models = [getattr(settings, field) for field in MODELS]
    return StageTask(
        "extract",
        name,
        context.work_dir,
        folder,
        settings={**plain, "store_url": context.recipe.store_url} if at_url else plain,
        inputs=lambda: corpus_hashes(context, "train", *labelled_sets(context.recipe)) + source_hashes(context, models),
        run=run,
        results=(folder / (PLACE if at_url else HYPOTHESES_INDEX),),
        is_intact=is_intact,
        owner=name,
    )
