"""Extraction as tasks of its stage: a teacher's soft targets and n-best hypotheses.

The work is divided by a fixed plan; each process, and each task of a Slurm array, computes its share.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.settings import UNTRANSCRIBED
from asr_kd.errors import AsrKdError, StoppedEarly, TargetsError
from asr_kd.files import read_json, write_json
from asr_kd.progress import Progress
from asr_kd.recipe.context import RunContext, store_sha256
from asr_kd.recipe.stage import StageTask
from asr_kd.recipe.system_settings import ExistingTeacher, nbest_task_name
from asr_kd.recipe.teachers import open_teacher, teacher_sha256
from asr_kd.targets.bridge import bridge
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.extraction_checks import check_teacher_wer, plan_lines
from asr_kd.targets.hypotheses import HYPOTHESES_INDEX, HypothesesInfo, HypothesisStore
from asr_kd.targets.inspect import verify
from asr_kd.targets.nbest import extract_hypotheses
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard_manifest import QUARANTINE, done_shards, of_other_audio
from asr_kd.targets.sharded_extraction import ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share
from asr_kd.targets.storage import open_storage
from asr_kd.targets.store_index import INDEX
from asr_kd.targets.stored_arrays import Transcripts, spell_transcripts
from asr_kd.teachers.base import LAYERS_ONLY, Teacher
from asr_kd.text.vocabulary import Vocabulary

PLACE = "place.json"
"""Note with the URL of a store that is outside the work_dir."""

Report = TypeVar("Report", bound=ShardReport[Any])


@dataclass(frozen=True)
class StorePlace:
    """Where a task puts a store: its folder, or below the recipe's `store_url`, with a note in the folder.

    Attributes:
        context: of the run.
        folder: of the task, in the work_dir.
        index: the file that completes the store.
    """

    context: RunContext
    folder: Path
    index: str

    @property
    def store(self) -> Path | str:
        """The folder or URL of the store."""
        return self.context.stored_at(self.folder)

    @property
    def result(self) -> Path:
        """The file in the work_dir without which the task is not done."""
        return self.folder / (self.index if self.context.recipe.store_url is None else PLACE)

    def key_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the task's cache key."""
        url = self.context.recipe.store_url
        return settings if url is None else {**settings, "store_url": url}

    def write_note(self) -> None:
        """Write the store's URL and hash into the folder, where the recipe has a `store_url`."""
        if self.context.recipe.store_url is not None:
            write_json(self.result, {"place": str(self.store), "sha256": store_sha256(self.store, self.index)})

    def is_as_noted(self) -> bool:
        """Whether the store at the noted URL has the noted hash; always in the work_dir."""
        if self.context.recipe.store_url is None:
            return True
        try:
            note = read_json(self.result)
        except (OSError, ValueError):
            return False  # the store is found again, and the note written anew
        return open_storage(note["place"]).sha256(self.index) == note["sha256"]


def extraction_task(context: RunContext, teacher: str) -> StageTask:
    """Task that stores a teacher's soft targets, in its students' vocabulary and on their frames."""
    settings = _target_settings(context, teacher)
    place = StorePlace(context, context.targets_folder(teacher), INDEX)

    def compute(
        opened: Teacher, utterances: Sequence[Utterance], vocabulary: Vocabulary, **options: Any
    ) -> ExtractionReport:
        transcripts = _transcripts(context, utterances, vocabulary) if settings.pooled else None
        return extract(opened, utterances, settings, place.store, transcripts=transcripts, **options)

    def is_intact() -> bool:
        found, corpus = verify(place.store), context.read_corpus()[0]
        intact = found.ok and found.info.complete
        return intact and not of_other_audio(found.info.shards, utterances_to_label(context, teacher, corpus))

    # The number of threads changes nothing.
    plain = {key: value for key, value in settings.key_settings().items() if key != "readers"}
    if settings.pooled:
        plain["normalizer"] = context.recipe.vocabulary.normalizer
    settings_of_bridge = context.recipe.bridge.model_dump(mode="json", exclude_defaults=True)
    if settings_of_bridge and isinstance(context.recipe.teachers[teacher], ExistingTeacher):  # others are not bridged
        plain["bridge"] = settings_of_bridge
    report = functools.partial(report_extraction, context.progress, place.folder)
    return _teacher_task(place, teacher, teacher, plain, compute, report, is_intact, is_bridged=True)


def hypotheses_task(context: RunContext, teacher: str) -> StageTask:
    """Task that stores a teacher's n-best as text, for students with another vocabulary."""
    recipe, normalizer = context.recipe, context.recipe.vocabulary.normalizer
    place = StorePlace(context, context.hypotheses_folder(teacher), HYPOTHESES_INDEX)

    def compute(
        opened: Teacher, utterances: Sequence[Utterance], vocabulary: Vocabulary, **options: Any
    ) -> ShardReport[HypothesesInfo]:
        return extract_hypotheses(opened, utterances, recipe.nbest, place.store, normalizer, **options)

    def report(nbest: ShardReport[HypothesesInfo]) -> None:
        utterances = sum(shard.utterances for shard in nbest.info.shards)
        context.progress.message(f"  hypotheses of {utterances} utterances")
        if nbest.quarantine:
            context.progress.message(f"  {len(nbest.quarantine)} left out, listed in {place.store}/{QUARANTINE}")

    def is_intact() -> bool:
        info, corpus = HypothesisStore.open(place.store).info, context.read_corpus()[0]  # opening hashes the shards
        return info.complete and not of_other_audio(info.shards, utterances_to_label(context, teacher, corpus))

    plain = recipe.nbest.model_dump(mode="json", include={"count", "beam_size", "shard_seconds"})
    plain["normalizer"] = normalizer
    # Not bridged: text has no frames.
    return _teacher_task(place, teacher, nbest_task_name(teacher), plain, compute, report, is_intact, is_bridged=False)


def _teacher_task(
    place: StorePlace,
    teacher: str,
    name: str,
    settings: dict[str, Any],
    compute: Callable[..., Report],
    report: Callable[[Report], None],
    is_intact: Callable[[], bool],
    is_bridged: bool,
) -> StageTask:
    """A sharded task with one teacher.

    Args:
        is_intact: whether all files are as they were written; may raise TargetsError.
        is_bridged: whether the teacher is converted to the students' vocabulary and frames.
    """
    context, is_checked = place.context, False

    def label(share: Share) -> Report:
        nonlocal is_checked
        corpus, vocabulary = context.read_corpus()
        opened = open_teacher(context, teacher)
        if is_bridged:
            opened = bridge(opened, vocabulary, settings=context.recipe.bridge)
        if not is_checked:
            check_teacher(context, opened)
            is_checked = True
        return compute(
            opened,
            utterances_to_label(context, teacher, corpus),
            vocabulary,
            share=share,
            should_stop=_stopping(context, lambda: done_shards(open_storage(place.store))),
            progress=lambda done, total: context.progress.update(f"extract {name}", done, total, "s of audio"),
        )

    def on_complete(found: Report) -> None:
        place.write_note()
        report(found)

    def check_files() -> bool:
        try:
            return place.is_as_noted() and is_intact()
        except TargetsError:
            return False  # extraction repairs it, or names what is wrong

    manifests: list[str] = ["train", *([UNTRANSCRIBED] if context.recipe.labels_untranscribed(teacher) else [])]
    return sharded_task(
        context,
        name,
        teacher,
        place.folder,
        label,
        on_complete,
        settings=place.key_settings(settings),
        inputs=lambda: [*context.corpus_hashes(*manifests, spelling=is_bridged), teacher_sha256(context, teacher)],
        results=(place.result,),
        is_intact=check_files,
    )


def sharded_task(
    context: RunContext,
    name: str,
    owner: str,
    folder: Path,
    compute: Callable[[Share], Report],
    on_complete: Callable[[Report], None] = lambda report: None,
    **fields: Any,
) -> StageTask:
    """A task of the stage extract that several processes divide among themselves.

    Args:
        owner: the teacher or labels that `--only` selects it by.
        compute: computes a share of the shards.
        on_complete: called when the shards of all shares are done.
        fields: further fields of `StageTask`.
    """
    reports: list[Report] = []

    def run(folder: Path) -> None:
        reports.append(compute((context.share or EVERYTHING).split(context.ranks.rank, context.ranks.count)))

    def finish(folder: Path) -> str | None:
        report = reports[-1]
        if not report.complete and context.ranks.count > 1:
            report = compute(context.share or EVERYTHING)  # finds the shards of the other processes
        if report.complete:
            on_complete(report)
            return None
        if report.busy:
            raise StoppedEarly(
                f"other processes still make {len(report.busy)} shards ({report.busy[0]})",
                where=str(context.stored_at(folder)),
                remedy="Run the same command again when they are done",
            )
        return f"{report.share_line()}. When all shares are done, run the recipe without --share to continue"

    fields |= {"run": run, "finish": finish, "parallel": True, "shared": True, "owner": owner}
    return StageTask("extract", name, context.work_dir, folder, **fields)


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
    if context.recipe.threads is not None:
        torch.set_num_threads(context.recipe.threads)
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


def _stopping(context: RunContext, count_done: Callable[[], int]) -> Callable[[], bool]:
    """Stop at once on a signal, on a time limit after one shard: otherwise short limits would make no progress."""
    before = count_done()

    def should_stop() -> bool:
        stop = context.should_stop()
        return stop is not None and (stop.urgent or count_done() > before)

    return should_stop


def report_extraction(progress: Progress, folder: Path, report: ExtractionReport) -> None:
    """Report the size and fidelity of a store, and the utterances that were left out."""
    progress.message(f"  {report.info.frames} frames, {report.info.bytes_per_frame:.2f} bytes a frame on disk")
    if report.fidelity is not None:
        kept = report.fidelity
        progress.message(
            f"  kept: {kept.entries_per_frame:.2f} entries a frame, KL {kept.kl:.4f} + {kept.tail_divergence:.4f} nats "
            f"in the tail, argmax agreement {100 * kept.argmax_agreement:.2f} %; teacher: entropy "
            f"{kept.teacher_entropy:.3f} nats, blank on {100 * kept.blank_share:.0f} % of frames"
        )
    if report.info.layer_bytes_per_frame:
        error = report.fidelity.layer_error if report.fidelity is not None else None
        changed = "" if error is None else f"; rounding changed them by {100 * error:.2f} % of their length"
        progress.message(
            f"  of these, hidden layers take {report.info.layer_bytes_per_frame:.1f} bytes a frame{changed}"
        )
    if report.quarantine:
        progress.message(f"  {len(report.quarantine)} utterances left out, listed in {folder / QUARANTINE}")
