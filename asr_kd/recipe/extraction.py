"""Extraction as units of work: what a teacher leaves for its students, soft targets and hypotheses.

Work is cut by a fixed plan; each process, and each task of an array, takes its share and leaves the rest alone.
"""

from collections.abc import Callable
from pathlib import Path

from asr_kd.errors import AsrKdError, ShareDone, StoppedEarly
from asr_kd.files import write_json
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import corpus_hashes, hypotheses_folder, read_corpus, store_sha256, stored_at, targets_folder
from asr_kd.recipe.say import say_extraction
from asr_kd.recipe.stage import Unit
from asr_kd.recipe.teachers import bridged, heard_teacher, teacher_sha256
from asr_kd.targets.estimate import plan_report
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX
from asr_kd.targets.ledger import done_shards
from asr_kd.targets.nbest import NbestReport, extract_hypotheses
from asr_kd.targets.places import place_of
from asr_kd.targets.plan import EVERYTHING, Share
from asr_kd.targets.sanity import check_teacher
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.store import INDEX, QUARANTINE
from asr_kd.teachers.base import Teacher

PLACE = "place.json"
"""Says where a store lies that is not in its own folder."""


def extraction_unit(context: RunContext, teacher: str) -> Unit:
    """Stores a teacher's soft targets, in its students' vocabulary and on their frames."""
    recipe, folder = context.recipe, targets_folder(context, teacher)
    settings = _target_settings(context, teacher)
    bridge_settings = recipe.bridge.model_dump(mode="json", exclude_defaults=True)
    reports: list[ExtractionReport] = []

    def run(folder: Path) -> None:
        reports.append(label(_share(context)))

    def finish(folder: Path) -> None:
        report = reports[-1]
        if not report.complete and context.ranks.count > 1:
            report = label(EVERYTHING if context.share is None else context.share)  # counts what the others made
        if not report.complete:
            _unfinished(context, report.busy, report.share_line())
        _point_to(context, folder, INDEX)
        say_extraction(context.progress, folder, report)

    def label(share: Share) -> ExtractionReport:
        corpus, vocabulary = read_corpus(context)
        heard = bridged(context, heard_teacher(context, teacher), vocabulary)
        if not reports:
            say_what_it_hears(context, heard)
        store = stored_at(context, folder)
        return extract(
            heard,
            corpus.train,
            settings,
            store,
            share,
            should_stop=_stopping(context, lambda: done_shards(place_of(store))),
            progress=lambda done, total: context.progress.update(f"extract {teacher}", done, total, "s of audio"),
        )

    return Unit(
        "extract",
        teacher,
        context.work_dir,
        folder,
        settings={
            **settings.model_dump(mode="json", exclude={"readers"}),  # more threads change nothing that is stored
            **({"bridge": bridge_settings} if bridge_settings else {}),
            **_elsewhere(context),
        },
        inputs=lambda: [*corpus_hashes(context, "train"), teacher_sha256(context, teacher)],
        run=run,
        results=(folder / (INDEX if recipe.store_url is None else PLACE),),
        parallel=True,
        finish=finish,
    )


def hypotheses_unit(context: RunContext, teacher: str) -> Unit:
    """Stores a teacher's n-best as text, for students with another vocabulary."""
    recipe, folder = context.recipe, hypotheses_folder(context, teacher)
    reports: list[NbestReport] = []

    def run(folder: Path) -> None:
        reports.append(label(_share(context)))

    def finish(folder: Path) -> None:
        report = reports[-1]
        if not report.complete and context.ranks.count > 1:
            report = label(EVERYTHING if context.share is None else context.share)
        if not report.complete:
            _unfinished(context, report.busy, f"this share of {stored_at(context, folder)} is done")
        _point_to(context, folder, HYPOTHESES_INDEX)
        if report.quarantine:
            where = f"{stored_at(context, folder)}/{QUARANTINE}"
            context.progress.message(f"  {len(report.quarantine)} utterances left out, listed in {where}")

    def label(share: Share) -> NbestReport:
        corpus, _ = read_corpus(context)
        store = stored_at(context, folder)
        heard = heard_teacher(context, teacher)  # not bridged: text has no frames
        if not reports:
            say_what_it_hears(context, heard)
        return extract_hypotheses(
            heard,
            corpus.train,
            recipe.nbest,
            store,
            recipe.vocabulary.normalizer,
            share,
            should_stop=_stopping(
                context, lambda: sum(1 for name in place_of(store).sizes() if name.endswith(".json"))
            ),
            progress=lambda done, total: context.progress.update(f"n-best {teacher}", done, total, "s of audio"),
        )

    return Unit(
        "extract",
        f"{teacher}-hypotheses",
        context.work_dir,
        folder,
        settings={
            **recipe.nbest.model_dump(mode="json", include={"count", "beam_size", "shard_seconds"}),
            "normalizer": recipe.vocabulary.normalizer,
            **_elsewhere(context),
        },
        inputs=lambda: [*corpus_hashes(context, "train"), teacher_sha256(context, teacher)],
        run=run,
        results=(folder / (HYPOTHESES_INDEX if recipe.store_url is None else PLACE),),
        parallel=True,
        finish=finish,
    )


def say_what_it_hears(context: RunContext, teacher: Teacher) -> None:
    """Hear the teacher on a few transcribed utterances first: a wrong label map shows at once.

    Raises:
        TargetsError: its word error rate is implausible.
    """
    if context.recipe.sanity.utterances == 0:
        return
    corpus, _ = read_corpus(context)
    report = check_teacher(teacher, corpus.train, context.recipe.vocabulary.normalizer, context.recipe.sanity)
    if context.ranks.first:
        for line in report.lines():
            context.progress.message(f"  {line}")


def say_plan(context: RunContext, workers: int) -> None:
    """Print what extraction would make and take, for each teacher, from a timed sample; stores nothing."""
    corpus, vocabulary = read_corpus(context)
    teachers = [name for name in context.recipe.teachers if context.recipe.target_speeds(name)]
    if not teachers:
        raise AsrKdError("no student of this recipe needs soft targets", expected="one with distill.level: frame")
    for name in teachers:
        heard = bridged(context, heard_teacher(context, name), vocabulary)
        context.progress.message(f"[extract {name}] planned, nothing is stored")
        for line in plan_report(heard, corpus.train, _target_settings(context, name)).lines(workers):
            context.progress.message(line)


def _target_settings(context: RunContext, teacher: str) -> TargetSettings:
    """The recipe's settings, with the speeds that this teacher's students train at."""
    recipe = context.recipe
    speeds = tuple(sorted({*recipe.targets.speeds, *recipe.target_speeds(teacher)}))
    return recipe.targets.model_copy(update={"speeds": speeds})


def _share(context: RunContext) -> Share:
    """This process' part of this task's part."""
    return (context.share or EVERYTHING).split(context.ranks.rank, context.ranks.count)


def _stopping(context: RunContext, count_done: Callable[[], int]) -> Callable[[], bool]:
    """A piece is the least that is kept: without one a call, a short time limit would never get anywhere."""
    before = count_done()

    def should_stop() -> bool:
        stop = context.should_stop()
        return stop is not None and (stop.urgent or count_done() > before)

    return should_stop


def _marks(store: Path | str) -> int:
    return sum(1 for name in place_of(store).sizes() if name.endswith(".json"))


def _unfinished(context: RunContext, busy: tuple[str, ...], share_line: str) -> None:
    """End a call whose part is done, or in others' hands, while the whole is not."""
    if busy:
        raise StoppedEarly(
            f"other processes still make {len(busy)} parts ({busy[0]})",
            remedy="Run the same command again when they are done",
        )
    raise ShareDone(share_line, remedy="When all shares are done, run the recipe without --share to go on")


def _point_to(context: RunContext, folder: Path, index: str) -> None:
    """Leave a note in the run's folder when the store lies elsewhere."""
    store = stored_at(context, folder)
    if store != folder:
        write_json(folder / PLACE, {"place": str(store), "sha256": store_sha256(store, index)})


def _elsewhere(context: RunContext) -> dict[str, str]:
    return {} if context.recipe.store_url is None else {"store_url": context.recipe.store_url}
