"""The stage tasks of a recipe's `hypotheses`: transcripts of the training set, then the labels made of them.

Two tasks, so that another threshold makes new labels from the transcripts that there are.
"""

from pathlib import Path

from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import corpus_hashes, hypotheses_folder, read_corpus
from asr_kd.recipe.pseudo_labels import label_from, transcribe_with
from asr_kd.recipe.stage import StageTask
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesisStore
from asr_kd.targets.pseudo_labelling import PseudoLabelSettings
from asr_kd.targets.shard_manifest import of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING
from asr_kd.targets.transcripts import TRANSCRIPTS_INDEX, read_transcripts

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
    reports: list[ShardReport] = []

    def run(folder: Path) -> None:
        share = (context.share or EVERYTHING).split(context.ranks.rank, context.ranks.count)
        stop = lambda: context.should_stop() is not None  # noqa: E731
        threads, device = context.recipe.threads or 1, context.device.type
        corpus, _ = read_corpus(context)
        reports.append(transcribe_with(settings, corpus.train, folder, context.progress, share, stop, threads, device))

    def finish(folder: Path) -> str | None:
        report = reports[-1]
        if not report.complete and context.ranks.count > 1:
            run(folder)  # counts what the other processes made
            report = reports[-1]
        if report.complete:
            return None
        if report.busy:
            raise StoppedEarly(
                f"other processes still make {len(report.busy)} shards ({report.busy[0]})",
                where=str(folder),
                remedy="Run the same command again when they are done",
            )
        return f"{report.share_line()}. When all shares are done, run the recipe without --share to continue"

    def is_intact() -> bool:
        try:
            read = [read_transcripts(index.parent)[0] for index in indices]
        except TargetsError:
            return False
        return not any(of_other_audio(info.shards, read_corpus(context)[0].train) for info in read)

    return StageTask(
        "extract",
        f"{name}-transcripts",
        context.work_dir,
        folder,
        settings=settings.model_dump(mode="json", include=DECODING),
        inputs=lambda: corpus_hashes(context, "train", spelling=False),
        run=run,
        results=tuple(indices),
        parallel=True,
        shared=True,
        finish=finish,
        is_intact=is_intact,
        owner=name,
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
