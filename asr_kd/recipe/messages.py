"""Messages about the results of stages, and the summary that a run prints at its end."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance, hours
from asr_kd.evaluation.cells import percent
from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.report.text_renderers import terminal_table
from asr_kd.export.export_bundle import bundle_places, web_folder
from asr_kd.progress import Progress
from asr_kd.recipe.context import RunContext, exported
from asr_kd.recipe.stage import STAGES
from asr_kd.runtime.bundle import BundleInfo
from asr_kd.targets.extract import ExtractionReport
from asr_kd.targets.shard_manifest import QUARANTINE
from asr_kd.text.vocabulary import Vocabulary


def report_corpus(progress: Progress, folder: Path, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    """Report sizes of the sets, absent sets, and the utterances that were left out."""
    extra = {"untranscribed": corpus.untranscribed} if corpus.untranscribed else {}
    for name, members in {"train": corpus.train, **extra, **corpus.sets}.items():
        speakers = len({utterance.speaker for utterance in members})
        progress.message(f"  {name}: {len(members)} utterances, {hours(members):.2f} h, {speakers} speakers")
    for name, reason in corpus.absent.items():
        progress.message(f"  {name}: {reason}")
    if corpus.excluded:
        progress.message(f"  {len(corpus.excluded)} left out, listed in {folder / 'corpus.json'}")
    progress.message(f"  vocabulary: {len(vocabulary)} symbols")


def report_fold(progress: Progress, used: Sequence[Utterance], everything: Sequence[Utterance]) -> None:
    """Report the training data of a fold's teacher, and the utterances that it will label."""
    left_out = {utterance.speaker for utterance in everything} - {utterance.speaker for utterance in used}
    minutes = 60 * (hours(everything) - hours(used))
    progress.message(
        f"  trains on {len(used)} utterances ({hours(used):.2f} h); leaves out {len(everything) - len(used)} of "
        f"{len(left_out)} speakers ({minutes:.1f} min), which it will label"
    )


def report_extraction(progress: Progress, folder: Path, report: ExtractionReport) -> None:
    """Report the size and fidelity of a store, and the utterances that were left out."""
    progress.message(f"  {report.frames} frames, {report.bytes_per_frame:.2f} bytes a frame on disk")
    if report.fidelity is not None:
        kept = report.fidelity
        progress.message(
            f"  kept: {kept.entries_per_frame:.2f} entries a frame, KL {kept.kl:.4f} + {kept.tail_divergence:.4f} nats "
            f"in the tail, argmax agreement {100 * kept.argmax_agreement:.2f} %; teacher: entropy "
            f"{kept.teacher_entropy:.3f} nats, blank on {100 * kept.blank_share:.0f} % of frames"
        )
    if report.layer_bytes_per_frame:
        error = report.fidelity.layer_error if report.fidelity is not None else None
        changed = "" if error is None else f"; rounding changed them by {100 * error:.2f} % of their length"
        progress.message(f"  of these, hidden layers take {report.layer_bytes_per_frame:.1f} bytes a frame{changed}")
    if report.quarantine:
        progress.message(f"  {len(report.quarantine)} utterances left out, listed in {folder / QUARANTINE}")


def report_bundle(progress: Progress, folder: Path, info: BundleInfo) -> None:
    """Report a bundle's folder, chunks, forms and sizes, and the WER of 8-bit weights where it was measured."""
    forms = ", ".join(f"{name} {entry.size_bytes / 1e6:.1f} MB" for name, entry in info.files.graphs.items())
    wer = info.int8_wer
    cost = f"; WER {percent(wer['wer_int8'])} % with 8-bit weights, {percent(wer['wer_fp32'])} % without" if wer else ""
    progress.message(
        f"  {folder}: computes what its model computes, chunks of {info.streaming.chunk_ms} ms, {forms}{cost}; see its "
        "README.md"
    )
    if not info.trace.trained:
        progress.message(
            f"  its model was not trained with chunks of {info.streaming.chunk_ms} ms: words may be wrong. Measure it "
            "with evaluate.matrix before use"
        )
    elif not info.trace.wer:
        progress.message("  its error rates with these chunks and greedy decoding were not measured")


def print_summary(context: RunContext, command: Sequence[str], last: str, console: Console) -> None:
    """Print the results of the stages up to `last`; `command` is the recipe and its overrides."""
    work_dir = context.work_dir
    if last in ("evaluate", "export") and (work_dir / "report" / "results.json").is_file():
        console.print(terminal_table(read_results(work_dir / "report")))
        console.print(
            f"report:  {work_dir / 'report' / 'index.html'} (also results.md, results.json, hypotheses/ and cards/)",
            markup=False,
        )
    contexts = context.recipe.export.contexts
    bundles = [place for name in exported(context) for place in bundle_places(contexts, work_dir / "export" / name)]
    done = [bundle for bundle in bundles if (bundle / "bundle.json").is_file()]
    if last == "export" and done:
        for bundle in done:
            console.print(f"export:  {bundle}", markup=False)
        favourite = next((bundle for bundle in done if "student-kd" in bundle.parts[-2:]), done[-1])
        if "web" in context.recipe.export.formats:
            folder = shlex.quote(str(web_folder(favourite)))
            console.print(
                f"page:    python -m http.server --directory {folder}  then open http://127.0.0.1:8000", markup=False
            )
        console.print(f"next:    asr-kd transcribe {shlex.quote(str(favourite))} AUDIO...", markup=False)
        return
    following = STAGES[STAGES.index(last) + 1] if last != STAGES[-1] else last
    console.print(f"next:    asr-kd run {shlex.join(command)} --from {following}", markup=False)
