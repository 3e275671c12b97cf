"""Transcripts of a manifest by an external recognizer, stored as it wrote them, with its measures.

Made by the extraction engine: sharded, resumable, several workers. Filters and readings come later, so a threshold can
change without transcribing again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from asr_kd.corpora.manifest import Utterance
from asr_kd.files import loads_json
from asr_kd.targets.settings import ShardSettings
from asr_kd.targets.shard_manifest import ShardManifest, StoreIndex, json_lines_shard, read_json_lines
from asr_kd.targets.sharded_extraction import ShardedExtraction, ShardMaker, ShardReport
from asr_kd.targets.sharding import EVERYTHING, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import open_storage
from asr_kd.teachers.whisper_transcriber import TranscriberSettings, Transcription, WhisperTranscriber

TRANSCRIPTS_INDEX = "transcripts.json"
SHARDS = ShardSettings(shard_seconds=600.0, readers=2)


class TranscriptsInfo(StoreIndex):
    """Content of `transcripts.json`."""

    index: ClassVar[str] = TRANSCRIPTS_INDEX
    contents: ClassVar[str] = "transcripts"
    made_by: ClassVar[str] = "`asr-kd pseudo-label`"
    make_again: ClassVar[str] = "Transcribe again into an empty folder"
    differs_freely: ClassVar[frozenset[str]] = frozenset({"shards", "model"})

    format: Literal["asr-kd transcripts"] = "asr-kd transcripts"
    version: Literal[1] = 1
    model: str
    """Its name, or that of its folder."""
    model_sha256: str
    settings: dict[str, Any]
    """Of the decoding; plain data."""
    manifest_sha256: str


def transcribe_manifest(
    transcriber: WhisperTranscriber,
    utterances: Sequence[Utterance],
    folder: Path | str,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> ShardReport[TranscriptsInfo]:
    """Transcribe every utterance as `extract` labels it: in shards, resuming where an earlier call stopped.

    Raises:
        TargetsError, StoppedEarly: as `extract`.
    """
    plan = plan_shards(utterances, SHARDS)
    settings = transcriber.settings
    info = TranscriptsInfo(
        model=Path(settings.source).name,
        model_sha256=transcriber.sha256,
        settings={name: getattr(settings, name) for name in ("language", "beam", "batch", "compute_type")},
        manifest_sha256=manifest_sha256(utterances),
        planned_shards=len(plan),
    )

    maker = ShardMaker(
        batches=lambda utterances: [(transcriber, batch) for batch in _batches(utterances, settings)],
        label=lambda model, batch: _transcribe(model, [item.waveforms[0] for item in batch]),
        pack=lambda shard, found: json_lines_shard(
            shard, [{"id": u.id, **asdict(found[u.id])} for u in shard.utterances if u.id in found]
        ),
        settings=SHARDS,
    )
    manifest = ShardManifest(open_storage(folder), info, plan)
    return ShardedExtraction(manifest, share, maker, should_stop, progress).run()


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
    info = TranscriptsInfo.read(storage, partial=False)
    rows = [loads_json(line) for line in read_json_lines(storage, info)]
    return info, {row.pop("id"): Transcription(**row) for row in rows}
