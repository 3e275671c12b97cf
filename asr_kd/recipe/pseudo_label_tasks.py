"""Pseudo-labels of a recipe's training set or a manifest: imported, or transcribed with Whisper, filtered and stored.

The folder of `asr-kd pseudo-label` holds the hypotheses that students read (`students.NAME.hypotheses`), the raw
transcripts of each model below `transcripts/`, and `filters.json` with the yield of every filter. In a recipe the two
steps are two tasks, so that another threshold makes new labels from the existing transcripts."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from asr_kd.corpora.corpus import manifests_folder, read_prepared
from asr_kd.corpora.manifest import Utterance, read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import CorpusError, RecipeError, TargetsError
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.files import register_files
from asr_kd.models.subsampling import output_len
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, RunContext, corpus_hashes, hypotheses_folder, read_corpus
from asr_kd.recipe.extraction import sharded_task
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.stage import StageTask
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.hypothesis_formats import Form
from asr_kd.targets.importing import SHARD, import_hypotheses, store_labels
from asr_kd.targets.pseudo_labelling import (
    PREFIX,
    Alphabet,
    PseudoLabelled,
    PseudoLabelSettings,
    ScoreReadings,
    ctc_reading_scorer,
    make_pseudo_labels,
)
from asr_kd.targets.shard_manifest import QUARANTINE, of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.transcripts import TRANSCRIPTS_INDEX, read_transcripts, transcribe_manifest
from asr_kd.teachers.opening import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
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
) -> list[str]:
    """Import hypotheses of another system; return the report's lines.

    Args:
        source: file or folder of hypotheses.
        target: a recipe whose corpus is prepared, or a manifest.
        folder: the new store of hypotheses.
        form: of the source; None: detected from its name.
        normalizer: for a manifest; a recipe has its own.
        min_coverage: share of the utterances that must have hypotheses.

    Raises:
        TargetsError: the source cannot be read, or its ids are not those of the utterances.
        CorpusError: the target is neither, or the recipe's corpus is not prepared.
    """
    utterances, written, vocabulary = open_target(target, normalizer)
    report = import_hypotheses(source, utterances, folder, written, form, min_coverage)
    lines = report.lines()
    if vocabulary is not None:
        unknown = _count_unspellable(HypothesisStore.open(folder), vocabulary)
        if unknown:
            lines.append(
                f"{unknown} hypotheses hold characters outside the recipe's vocabulary and will not be used; a "
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
        train = read_prepared(recipe.work_dir).train
        vocabulary = Vocabulary.load(manifests_folder(recipe.work_dir) / VOCABULARY)
        return train, recipe.vocabulary.normalizer, vocabulary
    if target.suffix in (".jsonl", ".json"):
        return read_manifest(target), normalizer or "librispeech", None
    raise CorpusError("is neither a recipe nor a manifest", where=target, expected="a .yaml or a .jsonl file")


def _count_unspellable(store: HypothesisStore, vocabulary: Vocabulary) -> int:
    """Number of hypotheses with characters outside the vocabulary."""
    return sum(bool(vocabulary.unknown_characters(item.text)) for id_ in store for item in store[id_])


FILTERS = "filters.json"


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
    folder: Path,
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
                source.removeprefix(PREFIX), settings.language, settings.beam, settings.compute_type, threads, device
            )
        )
        report = transcribe_manifest(
            transcriber,
            utterances,
            folder / str(number),
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
    transcripts: Path,
    folder: Path,
    normalizer: Normalizer,
    vocabulary: Vocabulary | None,
) -> list[str]:
    """Choose readings, filter, and store the labels of finished transcripts; return the report's lines.

    Raises:
        TargetsError: too much is filtered out, transcripts are missing or damaged, or `folder` holds something else.
    """
    info, first = read_transcripts(transcripts / "1")
    second = read_transcripts(transcripts / "2")[1] if settings.agree_with is not None else None
    alphabet = Alphabet(normalizer, vocabulary, _fits_ctc, settings.language or "en")
    labelled = make_pseudo_labels(first, utterances, settings, alphabet, second, _scorer(settings, normalizer))
    register_files(folder, (HYPOTHESES_INDEX, SHARD, QUARANTINE, FILTERS))
    store_labels(folder, labelled.texts, utterances, settings.source, info.model_sha256, normalizer, settings)
    (folder / FILTERS).write_text(_as_json(labelled), encoding="utf-8")
    return _lines(labelled, folder)


def _scorer(settings: PseudoLabelSettings, normalizer: Normalizer) -> ScoreReadings | None:
    if settings.reading_model is None:
        return None
    teacher = open_teacher_source(TeacherSource(source=settings.reading_model))
    return ctc_reading_scorer(teacher, normalizer, read_utterance)


def _fits_ctc(tokens: Sequence[int], utterance: Utterance) -> bool:
    return min_ctc_frames(tokens) <= output_len(num_frames(int(utterance.duration * SAMPLE_RATE)))


def _as_json(labelled: PseudoLabelled) -> str:
    content = {
        "steps": [asdict(step) for step in labelled.report.steps],
        "removed": dict(labelled.report.removed),
        "from_transcripts": labelled.from_transcripts,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _lines(labelled: PseudoLabelled, folder: Path) -> list[str]:
    lines = labelled.report.lines() if labelled.report.steps else []
    if labelled.from_transcripts:
        lines.append(f"{labelled.from_transcripts} utterances keep their own transcripts (transcript_share)")
    lines.append(f"{len(labelled.texts)} pseudo-labels: {folder}; name it in a student: hypotheses: {folder}")
    return lines


DECODING = {"source", "agree_with", "language", "beam", "compute_type"}
"""Settings that decide the transcripts; the others only decide what becomes of them."""


def pseudo_label_tasks(context: RunContext, name: str, settings: PseudoLabelSettings) -> list[StageTask]:
    """The tasks that make the pseudo-labels called `name`."""
    return [_transcripts_task(context, name, settings), _labels_task(context, name, settings)]


def _transcripts_folder(context: RunContext, name: str) -> Path:
    return context.folder("transcripts", name)


def _transcripts_task(context: RunContext, name: str, settings: PseudoLabelSettings) -> StageTask:
    folder = _transcripts_folder(context, name)
    indices = [folder / number / TRANSCRIPTS_INDEX for number in ("1", *(["2"] if settings.agree_with else []))]
    stop = lambda: context.should_stop() is not None  # noqa: E731
    threads, device = context.recipe.threads or 1, context.device.type

    def compute(share: Share) -> ShardReport:
        corpus, _ = read_corpus(context)
        return transcribe_with(settings, corpus.train, folder, context.progress, share, stop, threads, device)

    def is_intact() -> bool:
        try:
            read = [read_transcripts(index.parent)[0] for index in indices]
        except TargetsError:
            return False
        return not any(of_other_audio(info.shards, read_corpus(context)[0].train) for info in read)

    return sharded_task(
        context,
        f"{name}-transcripts",
        name,
        folder,
        compute,
        settings=settings.model_dump(mode="json", include=DECODING),
        inputs=lambda: corpus_hashes(context, "train", spelling=False),
        results=tuple(indices),
        is_intact=is_intact,
    )


def _labels_task(context: RunContext, name: str, settings: PseudoLabelSettings) -> StageTask:
    folder, transcripts = hypotheses_folder(context, name), _transcripts_folder(context, name)
    normalizer = context.recipe.vocabulary.normalizer

    def run(folder: Path) -> None:
        corpus, vocabulary = read_corpus(context)
        for line in label_from(settings, corpus.train, transcripts, folder, normalizer, vocabulary):
            context.progress.message(f"  {line}")

    def is_intact() -> bool:
        try:
            store = HypothesisStore.open(folder)
            store.check_audio(read_corpus(context)[0].train)
        except TargetsError:
            return False
        return store.info.complete

    return StageTask(
        "extract",
        name,
        context.work_dir,
        folder,
        settings={**settings.model_dump(mode="json"), "normalizer": normalizer},
        inputs=lambda: corpus_hashes(context, "train"),
        run=run,
        results=(folder / HYPOTHESES_INDEX,),
        is_intact=is_intact,
        owner=name,
    )
