"""Extraction as tasks of its stage: what a teacher leaves for its students, soft targets and hypotheses.

Work is cut by a fixed plan; each process, and each task of an array, takes its share and leaves the rest alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import UNTRANSCRIBED
from asr_kd.errors import AsrKdError, StoppedEarly, TargetsError
from asr_kd.files import read_json, write_json
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import corpus_hashes, hypotheses_folder, read_corpus, store_sha256, stored_at, targets_folder
from asr_kd.recipe.messages import report_extraction
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.system_settings import ExistingTeacher, nbest_task_name
from asr_kd.recipe.teachers import bridged, open_teacher, teacher_sha256
from asr_kd.targets.estimate import plan_report
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.inspect import verify
from asr_kd.targets.nbest import NbestReport, extract_hypotheses
from asr_kd.targets.pooled import Transcripts, spell_transcripts
from asr_kd.targets.sanity import measure_teacher_wer
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard_manifest import QUARANTINE, done_shards, of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.store import INDEX
from asr_kd.teachers.base import Teacher
from asr_kd.text.vocabulary import Vocabulary

PLACE = "place.json"
"""Says where a store lies that is not in its own folder."""


def extraction_task(context: RunContext, teacher: str) -> StageTask:
    """Stores a teacher's soft targets, in its students' vocabulary and on their frames."""
    folder, settings = targets_folder(context, teacher), _target_settings(context, teacher)
    store = stored_at(context, folder)

    def label(share: Share, hear_first: bool) -> ExtractionReport:
        corpus, vocabulary = read_corpus(context)
        heard = bridged(context, open_teacher(context, teacher), vocabulary)
        if hear_first:
            check_teacher(context, heard)
        return extract(
            heard,
            utterances_to_label(context, teacher, corpus),
            settings,
            store,
            share,
            should_stop=_stopping(context, lambda: done_shards(open_storage(store))),
            progress=lambda done, total: context.progress.update(f"extract {teacher}", done, total, "s of audio"),
            transcripts=_transcripts(context, utterances_to_label(context, teacher, corpus), vocabulary)
            if settings.pooled
            else None,
        )

    plain = {
        # More threads change nothing that is stored.
        **settings.model_dump(mode="json", exclude={"readers"}),
        **({"normalizer": context.recipe.vocabulary.normalizer} if settings.pooled else {}),
        **_bridging(context, teacher),
    }

    def is_whole() -> bool:
        found, corpus = verify(store), read_corpus(context)[0]
        intact = found.ok and found.info.complete
        return intact and not of_other_audio(found.info.shards, utterances_to_label(context, teacher, corpus))

    work = _Work(
        label, lambda report: report_extraction(context.progress, folder, report), is_whole, INDEX, spelled=True
    )
    return _task(context, teacher, teacher, folder, plain, work)


def hypotheses_task(context: RunContext, teacher: str) -> StageTask:
    """Stores a teacher's n-best as text, for students with another vocabulary."""
    recipe, folder = context.recipe, hypotheses_folder(context, teacher)
    store = stored_at(context, folder)

    def label(share: Share, hear_first: bool) -> NbestReport:
        corpus, _ = read_corpus(context)
        heard = open_teacher(context, teacher)  # not bridged: text has no frames
        if hear_first:
            check_teacher(context, heard)
        return extract_hypotheses(
            heard,
            utterances_to_label(context, teacher, corpus),
            recipe.nbest,
            store,
            recipe.vocabulary.normalizer,
            share,
            should_stop=_stopping(context, lambda: done_shards(open_storage(store))),
            progress=lambda done, total: context.progress.update(f"n-best {teacher}", done, total, "s of audio"),
        )

    def say(report: NbestReport) -> None:
        context.progress.message(f"  hypotheses of {report.utterances} utterances")
        if report.quarantine:
            context.progress.message(f"  {len(report.quarantine)} left out, listed in {store}/{QUARANTINE}")

    plain = {
        **recipe.nbest.model_dump(mode="json", include={"count", "beam_size", "shard_seconds"}),
        "normalizer": recipe.vocabulary.normalizer,
    }

    def is_whole() -> bool:
        info, corpus = HypothesisStore.open(store).info, read_corpus(context)[0]  # which hashes its parts
        return info.complete and not of_other_audio(info.shards, utterances_to_label(context, teacher, corpus))

    work = _Work(label, say, is_whole, HYPOTHESES_INDEX, spelled=False)
    return _task(context, teacher, nbest_task_name(teacher), folder, plain, work)


Report = TypeVar("Report", bound=ShardReport)


@dataclass(frozen=True)
class _Work(Generic[Report]):
    """What a unit of extraction does."""

    label: Callable[[Share, bool], Report]  # a share of the plan; whether to hear the teacher first
    say: Callable[[Report], None]  # what came out
    is_whole: Callable[[], bool]  # whether all files are as they were written; may raise TargetsError
    index: str  # the file that completes the store
    spelled: bool  # whether what is stored depends on the students' vocabulary


def _task(
    context: RunContext, teacher: str, name: str, folder: Path, settings: dict[str, Any], work: _Work[Report]
) -> StageTask:
    reports: list[Report] = []

    def run(folder: Path) -> None:
        share = (context.share or EVERYTHING).split(context.ranks.rank, context.ranks.count)
        reports.append(work.label(share, True))

    def finish(folder: Path) -> str | None:
        report = reports[-1]
        if not report.complete and context.ranks.count > 1:
            report = work.label(context.share or EVERYTHING, False)  # counts what the others made
        if not report.complete:
            return _left(report, stored_at(context, folder))
        _point_to(context, folder, work.index)
        work.say(report)
        return None

    url = context.recipe.store_url
    named: list[str] = ["train", *([UNTRANSCRIBED] if context.recipe.labels_untranscribed(teacher) else [])]

    def whole() -> bool:
        try:
            return (url is None or _still_there(folder, work.index)) and work.is_whole()
        except TargetsError:
            return False  # what is missing is made again; what cannot be is said there

    return StageTask(
        "extract",
        name,
        context.work_dir,
        folder,
        settings=settings if url is None else {**settings, "store_url": url},
        inputs=lambda: [*corpus_hashes(context, *named, spelling=work.spelled), teacher_sha256(context, teacher)],
        run=run,
        results=(folder / (work.index if url is None else PLACE),),
        parallel=True,
        shared=True,
        finish=finish,
        is_intact=whole,
        owner=teacher,
    )


def check_teacher(context: RunContext, teacher: Teacher) -> None:
    """Hear the teacher on a few transcribed utterances first: a wrong label map shows at once.

    Raises:
        TargetsError: its word error rate is implausible.
    """
    if context.recipe.sanity.utterances == 0:
        return
    corpus, _ = read_corpus(context)
    report = measure_teacher_wer(teacher, corpus.train, context.recipe.vocabulary.normalizer, context.recipe.sanity)
    if context.ranks.first:
        for line in report.lines():
            context.progress.message(f"  {line}")


def report_plan(context: RunContext, workers: int, only: Sequence[str] = ()) -> None:
    """Print what extraction would make and take, for each teacher, from a timed sample; stores nothing."""
    corpus, vocabulary = read_corpus(context)
    teachers = [name for name in context.recipe.teachers if context.recipe.target_speeds(name)]
    unknown = [name for name in only if name not in teachers]
    if unknown or not teachers:
        raise AsrKdError(
            f"{unknown[0]!r} has no soft targets to plan" if unknown else "no student needs soft targets",
            expected=f"one of {', '.join(teachers)}" if teachers else "one with distill.level: frame",
        )
    if context.recipe.threads is not None:
        torch.set_num_threads(context.recipe.threads)
    for name in only or teachers:
        heard = bridged(context, open_teacher(context, name), vocabulary)
        context.progress.message(f"[extract {name}] planned, nothing is stored")
        settings = _target_settings(context, name)
        utterances = utterances_to_label(context, name, corpus)
        transcripts = _transcripts(context, utterances, vocabulary) if settings.pooled else None
        for line in plan_report(heard, utterances, settings, transcripts=transcripts).lines(workers):
            context.progress.message(line)


def _bridging(context: RunContext, teacher: str) -> dict[str, Any]:
    """What a key says of the bridge: nothing of a teacher trained here, which stands on the students' side of it."""
    if not isinstance(context.recipe.teachers[teacher], ExistingTeacher):
        return {}
    settings = context.recipe.bridge.model_dump(mode="json", exclude_defaults=True)
    return {"bridge": settings} if settings else {}


def _target_settings(context: RunContext, teacher: str) -> TargetSettings:
    """The recipe's settings, with the speeds that this teacher's students train at and what else they need."""
    recipe = context.recipe
    speeds = tuple(sorted({*recipe.targets.speeds, *recipe.target_speeds(teacher)}))
    pooled = recipe.targets.pooled or recipe.needs_pooled(teacher)
    layers = recipe.target_layers(teacher)
    return recipe.targets.model_copy(update={"speeds": speeds, "pooled": pooled, "layers": layers})


def utterances_to_label(context: RunContext, teacher: str, corpus: PreparedCorpus) -> Sequence[Utterance]:
    """The training set, and the audio without transcripts where students of this teacher learn from it."""
    return [*corpus.train, *corpus.untranscribed] if context.recipe.labels_untranscribed(teacher) else corpus.train


def _transcripts(context: RunContext, utterances: Sequence[Utterance], vocabulary: Vocabulary) -> Transcripts:
    """What posteriors are pooled over: as students spell, which is what a bridged teacher's posteriors are of."""
    return spell_transcripts(utterances, vocabulary, context.recipe.vocabulary.normalizer)


def _stopping(context: RunContext, count_done: Callable[[], int]) -> Callable[[], bool]:
    """A piece is the least that is kept: without one a call, a short time limit would never get anywhere."""
    before = count_done()

    def should_stop() -> bool:
        stop = context.should_stop()
        return stop is not None and (stop.urgent or count_done() > before)

    return should_stop


def _left(report: ShardReport, store: Path | str) -> str:
    """What to say of a call whose own part is done while the whole is not.

    Raises:
        StoppedEarly: parts of this call's own are in other processes' hands.
    """
    if report.busy:
        raise StoppedEarly(
            f"other processes still make {len(report.busy)} shards ({report.busy[0]})",
            where=str(store),
            remedy="Run the same command again when they are done",
        )
    return f"{report.share_line()}. When all shares are done, run the recipe without --share to go on"


def _still_there(folder: Path, index: str) -> bool:
    """Whether a store elsewhere is what the note in the run's folder says."""
    try:
        note = read_json(folder / PLACE)
    except (OSError, ValueError):
        return False  # the store is found again, and the note written anew
    return open_storage(note["place"]).sha256(index) == note["sha256"]


def _point_to(context: RunContext, folder: Path, index: str) -> None:
    """Leave a note in the run's folder when the store lies elsewhere."""
    store = stored_at(context, folder)
    if store != folder:
        write_json(folder / PLACE, {"place": str(store), "sha256": store_sha256(store, index)})
