"""Transcripts of a manifest by an external recognizer, stored as it wrote them, with its measures.

Made by the extraction engine: sharded, resumable, several workers. Filters and readings come later, so a threshold can
change without transcribing again.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.files import loads_json
from asr_kd.targets.hypotheses import text_entry
from asr_kd.targets.settings import TargetSettings, Variant
from asr_kd.targets.shard_manifest import QuarantineEntry, ShardEntry, ShardManifest, StoreIndex, StoreKind, read_shard
from asr_kd.targets.sharded_extraction import MadeShard, ShardedExtraction, ShardReport, read_batches
from asr_kd.targets.sharding import EVERYTHING, PlannedShard, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import open_storage
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, Transcription, WhisperTranscriber

TRANSCRIPTS_INDEX = "transcripts.json"
TRANSCRIBE_AGAIN = "Transcribe again into an empty folder"
SHARD_SECONDS = 600.0
"""Audio in a shard: an interruption loses at most one shard."""
READERS = 2
MAX_QUARANTINE_SHARE = 0.01


class TranscriptsInfo(StoreIndex):
    """Content of `transcripts.json`."""

    differs_freely: ClassVar[frozenset[str]] = frozenset({"shards", "model"})

    format: Literal["asr-kd transcripts"] = "asr-kd transcripts"
    version: Literal[1] = 1
    model: str
    """Its name, or that of its folder."""
    model_sha256: str
    settings: dict[str, Any]
    """Of the decoding; plain data."""
    manifest_sha256: str


TRANSCRIPTS = StoreKind(
    TRANSCRIPTS_INDEX,
    ".jsonl",
    TranscriptsInfo,
    ShardEntry,
    "transcripts",
    "`asr-kd pseudo-label`",
    TRANSCRIBE_AGAIN,
)


def transcribe_manifest(
    transcriber: WhisperTranscriber,
    utterances: Sequence[Utterance],
    folder: Path | str,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> ShardReport[TranscriptsInfo]:
    """Transcribe every utterance, resuming where an earlier call stopped.

    Args:
        utterances: each id once.
        folder: of the transcripts, a path or a URL.
        progress: called with seconds of audio done and in all.

    Raises:
        TargetsError: the folder holds transcripts of another model, manifest or decoding, or too many utterances
            cannot be read.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
    """
    plan = plan_shards(utterances, TargetSettings(speeds=(1.0,), shard_seconds=SHARD_SECONDS))
    settings = transcriber.settings
    info = TranscriptsInfo(
        model=Path(settings.source).name,
        model_sha256=transcriber.sha256,
        settings={name: getattr(settings, name) for name in ("language", "beam", "batch", "compute_type")},
        manifest_sha256=manifest_sha256(utterances),
        planned_shards=len(plan),
    )

    def make(shard: PlannedShard, run: ShardedExtraction[Any, Any]) -> MadeShard:
        found: dict[str, Transcription] = {}
        quarantine: list[QuarantineEntry] = []
        batches = _batches(shard.utterances, settings)
        with closing(read_batches(batches, (Variant(1.0),), READERS)) as read:
            for batch in read:
                run.before_batch()
                quarantine += [QuarantineEntry.of(item.utterance, item.problem) for item in batch if item.problem]
                usable = [item for item in batch if not item.problem]
                texts = _transcribe(transcriber, [item.waveforms[0] for item in usable])
                found |= {item.utterance.id: text for item, text in zip(usable, texts, strict=True)}
                run.after_batch(quarantine, sum(item.utterance.duration for item in batch))
        rows = [{"id": each.id, **asdict(found[each.id])} for each in shard.utterances if each.id in found]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        return MadeShard(content, text_entry(shard, content, len(rows)), quarantine)

    manifest = ShardManifest(TRANSCRIPTS, open_storage(folder), info, plan)
    return ShardedExtraction(manifest, share, make, MAX_QUARANTINE_SHARE, should_stop, progress).run()


def _batches(utterances: Sequence[Utterance], settings: TranscriberSettings) -> list[list[Utterance]]:
    """Short utterances in batches of similar lengths; long recordings are batches of their own parts."""
    if settings.batch == 1:
        return [[utterance] for utterance in utterances]
    short = sorted((u for u in utterances if u.duration <= settings.long_seconds), key=lambda u: (u.duration, u.id))
    long = [[utterance] for utterance in utterances if utterance.duration > settings.long_seconds]
    return [short[begin : begin + settings.batch] for begin in range(0, len(short), settings.batch)] + long


def _transcribe(transcriber: WhisperTranscriber, waveforms: Sequence[Tensor]) -> list[Transcription]:
    if len(waveforms) > 1:
        return transcriber.transcribe_batch(waveforms)
    return [transcriber.transcribe(waveform) for waveform in waveforms]


def read_transcripts(folder: Path | str) -> tuple[TranscriptsInfo, dict[str, Transcription]]:
    """Read stored transcripts, by utterance id, and their index.

    Raises:
        TargetsError: not such a folder, unfinished, or a shard is missing or damaged.
    """
    storage = open_storage(folder)
    info = TRANSCRIPTS.read_complete(storage)
    found: dict[str, Transcription] = {}
    for shard in info.shards:
        for line in read_shard(storage, shard, TRANSCRIPTS_INDEX).splitlines():
            row = loads_json(line)
            id_ = row.pop("id")
            found[id_] = Transcription(**row)
    return info, found
