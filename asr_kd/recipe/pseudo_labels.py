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
from asr_kd.errors import CorpusError, RecipeError
from asr_kd.files import register_files
from asr_kd.progress import Progress
from asr_kd.recipe.context import VOCABULARY, Stop
from asr_kd.recipe.packaged_recipes import is_recipe
from asr_kd.recipe.settings import load_recipe
from asr_kd.recipe.store_tasks import stop_after_a_shard
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX
from asr_kd.targets.hypothesis_formats import Form
from asr_kd.targets.importing import SHARD, import_hypotheses, store_labels
from asr_kd.targets.pseudo_labelling import (
    PREFIX,
    LabelSettings,
    PseudoLabelSettings,
    ScoreReadings,
    ctc_reading_scorer,
    make_pseudo_labels,
)
from asr_kd.targets.shard_manifest import QUARANTINE
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.whisper_transcripts import TranscriptsInfo, read_transcripts, transcribe_manifest
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, open_transcriber
from asr_kd.text.normalize import Normalizer
from asr_kd.text.vocabulary import Vocabulary

FILTERS_FILE = "filters.json"
"""Beside stored pseudo-labels: the yield of every filter."""


def import_for(
    source: Path,
    target: Path,
    folder: str,
    form: Form | None,
    normalizer: Normalizer | None,
    min_coverage: float,
    settings: LabelSettings,
) -> list[str]:
    """Import hypotheses of another system for the utterances of `open_target`; see `import_hypotheses`."""
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
    if is_recipe(target):
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
    should_stop: Callable[[], Stop | None] = lambda: None,
    threads: int = 1,
    device: str = "cpu",
) -> list[str]:
    """Transcribe, choose readings, filter, and store; return the report's lines.

    `target` is a recipe whose corpus is prepared, or a manifest, which needs the normalizer. Labels are made when all
    shares of the transcribing are done.

    Raises:
        TargetsError: too much is filtered out, or a folder holds something else.
        StoppedEarly: `should_stop` returned a reason; finished shards are kept. At a time limit one was finished.
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
    should_stop: Callable[[], Stop | None] = lambda: None,
    threads: int = 1,
    device: str = "cpu",
) -> ShardReport[TranscriptsInfo]:
    """Transcribe with each model that the settings name, into `folder`/1 and `folder`/2; the report of the last one.

    Raises as `transcribe_manifest`.
    """
    second = settings.agree_beam or settings.beam
    models = [(settings.source, settings.beam), (settings.agree_with, second)]
    stop = stop_after_a_shard(should_stop, [f"{folder}/{number}" for number in (1, 2)])
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
            stop,
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
        register_files(folder, (HYPOTHESES_INDEX, SHARD, QUARANTINE, FILTERS_FILE))
    store_labels(folder, labelled.texts, utterances, settings.source, info.model_sha256, normalizer, settings)
    content = {
        "steps": [asdict(step) for step in labelled.report.steps],
        "removed": dict(labelled.report.removed),
        "from_transcripts": len(labelled.own_transcripts),
    }
    open_storage(folder).write(FILTERS_FILE, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    lines = labelled.report.lines() if labelled.report.steps else []
    if labelled.own_transcripts:
        lines.append(f"{len(labelled.own_transcripts)} utterances keep their own transcripts (transcript_share)")
    return [*lines, f"{len(labelled.texts)} pseudo-labels: {folder}; name it in a student: hypotheses: {folder}"]


def reading_scorer(settings: LabelSettings, normalizer: Normalizer) -> ScoreReadings | None:
    """The CTC model that chooses among readings, where the settings name one."""
    if settings.reading_model is None:
        return None
    teacher = open_teacher_source(TeacherSource(source=settings.reading_model))
    return ctc_reading_scorer(teacher, normalizer, read_utterance)
