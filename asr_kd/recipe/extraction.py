"""Extraction as tasks of its stage: a teacher's soft targets and n-best hypotheses."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import UNTRANSCRIBED
from asr_kd.errors import AsrKdError
from asr_kd.progress import Progress
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.store_tasks import StorePlace, sharded_task, stop_after_a_shard
from asr_kd.recipe.system_settings import ExistingTeacher, nbest_task_name
from asr_kd.recipe.teachers import open_teacher, teacher_sha256
from asr_kd.targets.bridge import bridge
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.extraction_checks import check_teacher_wer, plan_lines
from asr_kd.targets.fidelity import fidelity_lines
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesesInfo, HypothesisStore
from asr_kd.targets.inspect import verify
from asr_kd.targets.nbest import extract_hypotheses
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard_manifest import QUARANTINE, of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import Share
from asr_kd.targets.store_index import INDEX
from asr_kd.targets.stored_arrays import Transcripts, spell_transcripts
from asr_kd.teachers.base import LAYERS_ONLY, Teacher
from asr_kd.text.vocabulary import Vocabulary


def extraction_task(context: RunContext, teacher: str) -> StageTask:
    """Task that stores a teacher's soft targets, in its students' vocabulary and on their frames."""
    settings = _target_settings(context, teacher)
    place = StorePlace(context, context.targets_folder(teacher), INDEX)
    open_checked = _checked_opener(context, teacher, is_bridged=True)

    def compute(share: Share) -> ExtractionReport:
        opened, utterances, vocabulary = open_checked()
        transcripts = _transcripts(context, utterances, vocabulary) if settings.pooled else None
        stop, progress = _callbacks(context, teacher, place)
        return extract(opened, utterances, settings, place.store, share, stop, progress, transcripts)

    def check(store: Path | str) -> bool:
        found, utterances = verify(store), utterances_to_label(context, teacher, context.read_corpus()[0])
        return found.ok and found.info.complete and not of_other_audio(found.info.shards, utterances)

    # The number of reader threads does not change the result.
    plain = {key: value for key, value in settings.key_settings().items() if key != "readers"}
    others: dict[str, Any] = {"normalizer": context.recipe.vocabulary.normalizer} if settings.pooled else {}
    settings_of_bridge = context.recipe.bridge.model_dump(mode="json", exclude_defaults=True)
    if settings_of_bridge and isinstance(context.recipe.teachers[teacher], ExistingTeacher):  # others are not bridged
        others["bridge"] = settings_of_bridge
    return sharded_task(
        [place],
        teacher,
        teacher,
        place.folder,
        compute,
        check,
        {**plain, **others},
        {**settings.model_dump(mode="json", exclude_defaults=True), **others},
        inputs=lambda: _inputs(context, teacher, is_bridged=True),
        report=lambda found: report_extraction(context.progress, place.store, found),
    )


def hypotheses_task(context: RunContext, teacher: str) -> StageTask:
    """Task that stores a teacher's n-best as text, for students with another vocabulary."""
    nbest, normalizer = context.recipe.nbest, context.recipe.vocabulary.normalizer
    name, place = nbest_task_name(teacher), StorePlace(context, context.hypotheses_folder(teacher), HYPOTHESES_INDEX)
    open_checked = _checked_opener(context, teacher, is_bridged=False)  # text has no frames

    def compute(share: Share) -> ShardReport[HypothesesInfo]:
        opened, utterances, _ = open_checked()
        stop, progress = _callbacks(context, name, place)
        return extract_hypotheses(opened, utterances, nbest, place.store, normalizer, share, stop, progress)

    def report(found: ShardReport[HypothesesInfo]) -> None:
        utterances = sum(shard.utterances for shard in found.info.shards)
        context.progress.message(f"  hypotheses of {utterances} utterances")
        if found.quarantine:
            context.progress.message(f"  {len(found.quarantine)} left out, listed in {place.store}/{QUARANTINE}")

    def check(store: Path | str) -> bool:
        info = HypothesisStore.open(store).info  # opening hashes the shards
        return not of_other_audio(info.shards, utterances_to_label(context, teacher, context.read_corpus()[0]))

    fields = {"count", "beam_size", "shard_seconds"}
    stated = nbest.model_dump(mode="json", include=fields, exclude_defaults=True)
    return sharded_task(
        [place],
        name,
        teacher,
        place.folder,
        compute,
        check,
        {**nbest.model_dump(mode="json", include=fields), "normalizer": normalizer},
        {**stated, "normalizer": normalizer},
        inputs=lambda: _inputs(context, teacher, is_bridged=False),
        report=report,
    )


def _checked_opener(
    context: RunContext, teacher: str, is_bridged: bool
) -> Callable[[], tuple[Teacher, Sequence[Utterance], Vocabulary]]:
    """Return a function that opens a teacher, and checks its WER the first time.

    It returns the teacher, converted to the students' vocabulary and frames if `is_bridged`; the utterances to label;
    and the students' vocabulary.
    """
    is_checked = False

    def open_checked() -> tuple[Teacher, Sequence[Utterance], Vocabulary]:
        nonlocal is_checked
        corpus, vocabulary = context.read_corpus()
        opened = open_teacher(context, teacher)
        if is_bridged:
            opened = bridge(opened, vocabulary, settings=context.recipe.bridge)
        if not is_checked:
            check_teacher(context, opened)
            is_checked = True
        return opened, utterances_to_label(context, teacher, corpus), vocabulary

    return open_checked


def _callbacks(
    context: RunContext, name: str, place: StorePlace
) -> tuple[Callable[[], bool], Callable[[float, float], None]]:
    """Return `should_stop` and `progress` of an extraction."""
    should_stop = stop_after_a_shard(context.should_stop, [place.store])
    return should_stop, lambda done, total: context.progress.update(f"extract {name}", done, total, "s of audio")


def _inputs(context: RunContext, teacher: str, is_bridged: bool) -> list[Any]:
    manifests: list[str] = ["train", *([UNTRANSCRIBED] if context.recipe.labels_untranscribed(teacher) else [])]
    return [*context.corpus_hashes(*manifests, spelling=is_bridged), teacher_sha256(context, teacher)]


def check_teacher(context: RunContext, teacher: Teacher) -> None:
    """Transcribe a few utterances with the teacher and check its WER: a wrong label map shows at once.

    Raises:
        TargetsError: its word error rate is implausible.
    """
    if context.recipe.sanity.utterances == 0 or teacher.features.get("kind") == LAYERS_ONLY:
        return
    corpus, _ = context.read_corpus()
    transcribed = any(utterance.text for utterance in corpus.train)
    sample = corpus.train if transcribed else corpus.dev  # a folder of audio has no transcripts
    lines = check_teacher_wer(teacher, sample, context.recipe.vocabulary.normalizer, context.recipe.sanity)
    if context.ranks.first:
        for line in lines:
            context.progress.message(f"  {line}")


def report_plan(context: RunContext, workers: int, only: Sequence[str] = ()) -> None:
    """Print shards, bytes and time of an extraction for each teacher, from a timed sample; store nothing."""
    corpus, vocabulary = context.read_corpus()
    teachers = [name for name in context.recipe.teachers if context.recipe.target_speeds(name)]
    unknown = [name for name in only if name not in teachers]
    if unknown or not teachers:
        raise AsrKdError(
            f"{unknown[0]!r} has no soft targets to plan" if unknown else "no student needs soft targets",
            expected=f"one of {', '.join(teachers)}" if teachers else "one with distill.level: frame",
        )
    context.use_threads()
    for name in only or teachers:
        teacher = bridge(open_teacher(context, name), vocabulary, settings=context.recipe.bridge)
        context.progress.message(f"[extract {name}] planned, nothing is stored")
        settings = _target_settings(context, name)
        utterances = utterances_to_label(context, name, corpus)
        transcripts = _transcripts(context, utterances, vocabulary) if settings.pooled else None
        for line in plan_lines(teacher, utterances, settings, transcripts, workers):
            context.progress.message(line)


def _target_settings(context: RunContext, teacher: str) -> TargetSettings:
    """The recipe's settings, with the speeds that this teacher's students train at and what else they need."""
    recipe = context.recipe
    speeds = tuple(sorted({*recipe.targets.speeds, *recipe.target_speeds(teacher)}))
    pooled = recipe.targets.pooled or recipe.needs_pooled(teacher)
    layers = recipe.target_layers(teacher)
    return recipe.targets.model_copy(update={"speeds": speeds, "pooled": pooled, "layers": layers})


def utterances_to_label(context: RunContext, teacher: str, corpus: PreparedCorpus) -> Sequence[Utterance]:
    """The training set, with the audio without transcripts where students of this teacher use it."""
    return [*corpus.train, *corpus.untranscribed] if context.recipe.labels_untranscribed(teacher) else corpus.train


def _transcripts(context: RunContext, utterances: Sequence[Utterance], vocabulary: Vocabulary) -> Transcripts:
    """Transcripts in the students' vocabulary, over whose tokens posteriors are pooled."""
    return spell_transcripts(utterances, vocabulary, context.recipe.vocabulary.normalizer)


def report_extraction(progress: Progress, store: Path | str, report: ExtractionReport) -> None:
    """Report the size and fidelity of a store, and the utterances that were left out."""
    progress.message(f"  {report.info.frames} frames, {report.info.bytes_per_frame:.2f} bytes a frame on disk")
    for line in fidelity_lines(report.fidelity):
        progress.message(f"  {line}")
    if report.info.layer_bytes_per_frame:
        progress.message(f"  of these, hidden layers take {report.info.layer_bytes_per_frame:.1f} bytes a frame")
    if report.quarantine:
        progress.message(f"  {len(report.quarantine)} left out, listed in {store}/{QUARANTINE}")
