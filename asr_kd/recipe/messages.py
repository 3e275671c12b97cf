"""What stages say about their results, in a line or two. Decides nothing."""

from collections.abc import Sequence
from pathlib import Path

from asr_kd.corpora.corpus import PreparedCorpus
from asr_kd.corpora.manifest import Utterance, hours
from asr_kd.evaluation.cells import percent
from asr_kd.progress import Progress
from asr_kd.runtime.bundle import BundleInfo
from asr_kd.targets.extract import ExtractionReport
from asr_kd.targets.shard_manifest import QUARANTINE
from asr_kd.text.vocabulary import Vocabulary


def report_corpus(progress: Progress, folder: Path, corpus: PreparedCorpus, vocabulary: Vocabulary) -> None:
    """Sizes of the sets, what is absent, what was left out."""
    extra = {"untranscribed": corpus.untranscribed} if corpus.untranscribed else {}
    for name, members in {"train": corpus.train, **extra, **corpus.sets}.items():
        speakers = len({utterance.speaker for utterance in members})
        progress.message(f"  {name}: {len(members)} utterances, {hours(members):.2f} h, {speakers} speakers")
    for name, reason in corpus.absent.items():
        progress.message(f"  {name}: {reason}")
    if corpus.excluded:
        progress.message(f"  {len(corpus.excluded)} left out, listed in {folder / 'corpus.json'}")
    progress.message(f"  vocabulary: {len(vocabulary)} symbols")


def report_fold(progress: Progress, heard: Sequence[Utterance], everything: Sequence[Utterance]) -> None:
    """What the teacher of a fold is trained on, and what it will label."""
    left_out = {utterance.speaker for utterance in everything} - {utterance.speaker for utterance in heard}
    minutes = 60 * (hours(everything) - hours(heard))
    progress.message(
        f"  trains on {len(heard)} utterances ({hours(heard):.2f} h); leaves out {len(everything) - len(heard)} of "
        f"{len(left_out)} speakers ({minutes:.1f} min), which it will label"
    )


def report_extraction(progress: Progress, folder: Path, report: ExtractionReport) -> None:
    """What the store costs and keeps, and who was left out."""
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
    """Where a bundle is, its chunks, its forms with their sizes, and what 8-bit weights cost where it was measured."""
    forms = ", ".join(f"{name} {entry.size_bytes / 1e6:.1f} MB" for name, entry in info.files.graphs.items())
    wer = info.int8_wer
    cost = f"; WER {percent(wer['wer_int8'])} % with 8-bit weights, {percent(wer['wer_fp32'])} % without" if wer else ""
    progress.message(f"  {folder}: verified, chunks of {info.streaming.chunk_ms} ms, {forms}{cost}; see its README.md")
