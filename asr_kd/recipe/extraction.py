"""Extraction as a unit of work: a teacher, bridged to its students, labels the training set once."""

from pathlib import Path

from asr_kd.errors import StoppedEarly
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import corpus_hashes, read_corpus, targets_folder
from asr_kd.recipe.say import say_extraction
from asr_kd.recipe.stage import Unit
from asr_kd.recipe.teachers import bridged, heard_teacher, teacher_sha256
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.plan import EVERYTHING, Share
from asr_kd.targets.store import INDEX


def extraction_unit(context: RunContext, teacher: str) -> Unit:
    """Stores a teacher's soft targets, in its students' vocabulary and on their frames."""
    recipe, folder = context.recipe, targets_folder(context, teacher)
    speeds = tuple(sorted({*recipe.targets.speeds, *recipe.target_speeds(teacher)}))
    settings = recipe.targets.model_copy(update={"speeds": speeds})
    bridge_settings = recipe.bridge.model_dump(mode="json", exclude_defaults=True)

    reports: list[ExtractionReport] = []

    def run(folder: Path) -> None:
        reports.append(label(folder, Share(context.ranks.rank, context.ranks.count)))

    def finish(folder: Path) -> None:
        report = reports[-1]
        if not report.complete and context.ranks.count > 1:
            report = label(folder, EVERYTHING)  # the others' shards are there now: this counts them
        if not report.complete:
            raise StoppedEarly(
                f"other processes still make {len(report.busy)} shards of {folder} ({report.busy[0]})",
                remedy="Run the same command again when they are done",
            )
        say_extraction(context.progress, folder, report)

    def label(folder: Path, share: Share) -> ExtractionReport:
        corpus, vocabulary = read_corpus(context)
        before = _shards_in(folder)

        def should_stop() -> bool:
            # A shard is the least that is kept: without one a call, a short time limit would never get anywhere.
            stop = context.should_stop()
            return stop is not None and (stop.urgent or _shards_in(folder) > before)

        return extract(
            bridged(context, heard_teacher(context, teacher), vocabulary),
            corpus.train,
            settings,
            folder,
            share,
            should_stop=should_stop,
            progress=lambda done, total: context.progress.update(f"extract {teacher}", done, total, "s of audio"),
        )

    return Unit(
        "extract",
        teacher,
        context.work_dir,
        folder,
        settings={**settings.model_dump(mode="json"), **({"bridge": bridge_settings} if bridge_settings else {})},
        inputs=lambda: [*corpus_hashes(context, "train"), teacher_sha256(context, teacher)],
        run=run,
        results=(folder / INDEX,),
        parallel=True,
        finish=finish,
    )


def _shards_in(folder: Path) -> int:
    return len(list(folder.glob("shard-*.json")))
