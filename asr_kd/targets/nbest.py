"""A teacher's own n-best lists: beam search without a language model over its posteriors, stored as text.

A teacher of characters can serve a student of subwords this way, which frame posteriors cannot.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.decoding.flashlight import NbestDecoder
from asr_kd.errors import TargetsError
from asr_kd.targets.audio_batches import Reading, batches_by_teacher, read_batches
from asr_kd.targets.hypotheses import (
    HYPOTHESES,
    HypothesesInfo,
    HypothesesSource,
    TextHypothesis,
    distinct,
    hypotheses_shard,
)
from asr_kd.targets.settings import TargetSettings, Variant
from asr_kd.targets.shard_manifest import QuarantineEntry, ShardManifest
from asr_kd.targets.sharded_extraction import MadeShard, ShardedExtraction, ShardReport
from asr_kd.targets.sharding import EVERYTHING, PlannedShard, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import open_storage
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.teachers.base import Teacher
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import WORD_SEPARATOR


class NbestSettings(Settings):
    """Settings of n-best lists; the last four only divide the work."""

    count: int = Field(default=8, ge=1, le=100)
    """Different texts of an utterance that are kept."""
    beam_size: int = Field(default=20, ge=1, le=1000)
    """Prefixes that the search follows."""
    shard_seconds: float = Field(default=1800.0, gt=0.0)
    """Audio in a shard: an interruption loses at most one shard."""
    batch_seconds: float = Field(default=60.0, gt=0.0)
    """Audio in one batch of the teacher, padding included."""
    readers: int = Field(default=4, ge=0, le=64)
    """Threads that read audio ahead."""
    max_quarantine_share: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the utterances that may be unusable before extraction stops."""

    @model_validator(mode="after")
    def _beam_holds_them(self) -> "NbestSettings":
        if self.beam_size < self.count:
            raise ValueError(f"beam_size {self.beam_size} cannot give count {self.count} hypotheses")
        return self


@dataclass(frozen=True)
class NbestReport(ShardReport):
    """Report of an extraction of n-best lists."""

    utterances: int
    """With hypotheses, in all finished shards."""


def extract_hypotheses(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: NbestSettings,
    folder: Path | str,
    normalizer: Normalizer,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> NbestReport:
    """Keep a teacher's n-best of each utterance, resuming where an earlier call stopped.

    Several processes may call this with the same arguments at once: each shard is made by one of them.

    Args:
        utterances: each id once; transcripts are not used.
        normalizer: the student's; hypotheses are written under it.
        progress: called with seconds of audio done and in all.

    Raises:
        TargetsError: the folder holds another teacher's, data's or settings' hypotheses, too many unusable
            utterances, or it cannot be written.
        StoppedEarly: `should_stop` returned true; finished shards are kept.
        MissingExtraError: flashlight-text is not installed.
    """
    if not utterances:
        raise TargetsError("no utterances", expected="a manifest with at least one", where=str(folder))
    # Hypotheses are text: they hold at every speed at which the audio is played.
    plan = plan_shards(utterances, TargetSettings(speeds=(1.0,), shard_seconds=settings.shard_seconds))
    info = HypothesesInfo(
        source=HypothesesSource(kind="teacher", name=teacher.name, sha256=teacher.sha256),
        normalizer=normalizer,
        manifest_sha256=manifest_sha256(utterances),
        settings=settings.model_dump(include={"count", "beam_size", "shard_seconds"}),
        planned_shards=len(plan),
    )
    search, most_unusable = _Search(teacher, settings, normalizer), settings.max_quarantine_share
    manifest = ShardManifest(HYPOTHESES, open_storage(folder), info, plan)
    report, info = ShardedExtraction(manifest, share, search.make, most_unusable, should_stop, progress).run()
    return NbestReport(**vars(report), utterances=sum(shard.utterances for shard in info.shards))


class _Search:
    """A teacher and the beam search over its posteriors."""

    def __init__(self, teacher: Teacher, settings: NbestSettings, normalizer: Normalizer) -> None:
        self.teacher, self.settings, self.normalizer = teacher, settings, normalizer
        vocabulary = teacher.vocabulary
        separator = vocabulary.symbols.index(WORD_SEPARATOR) if WORD_SEPARATOR in vocabulary.symbols else None
        self.decoder = NbestDecoder(len(vocabulary), vocabulary.blank_id, separator, beam_size=settings.beam_size)

    def make(self, shard: PlannedShard, run: ShardedExtraction[Any, Any]) -> MadeShard:
        found: dict[str, list[TextHypothesis]] = {}
        quarantine: list[QuarantineEntry] = []
        planned = batches_by_teacher(self.teacher, shard.utterances, self.settings.batch_seconds)
        batches = [batch for _, batch in planned]
        with closing(read_batches(batches, (Variant(1.0),), self.settings.readers)) as read:
            for (teacher, _), batch in zip(planned, read, strict=True):
                run.before_batch()
                self._search_batch(teacher, batch, found, quarantine)
                run.after_batch(quarantine, sum(item.utterance.duration for item in batch))
        return hypotheses_shard(shard, found, quarantine)

    def _search_batch(
        self,
        teacher: Teacher,
        batch: Sequence[Reading],
        found: dict[str, list[TextHypothesis]],
        quarantine: list[QuarantineEntry],
    ) -> None:
        usable = [item for item in batch if item.problem is None]
        quarantine += [QuarantineEntry.of(item.utterance, item.problem) for item in batch if item.problem is not None]
        if not usable:
            return
        dense, _ = run_teacher(
            teacher, [item.waveforms[0] for item in usable], ids=[item.utterance.id for item in usable]
        )
        searched = self.decoder.decode(dense.log_probs, dense.lens)
        for item, frames, nbest in zip(usable, dense.lens.tolist(), searched, strict=True):
            if frames == 0:
                reason = f"too short for the teacher: no frame of {self.teacher.frame_shift_ms:g} ms"
                quarantine.append(QuarantineEntry.of(item.utterance, reason))
            elif not nbest:
                quarantine.append(QuarantineEntry.of(item.utterance, "the teacher's posteriors are not finite"))
            else:
                decode = self.teacher.vocabulary.decode
                texts = [TextHypothesis(normalize(decode(tokens), self.normalizer), score) for tokens, score in nbest]
                found[item.utterance.id] = distinct(texts, self.settings.count)
