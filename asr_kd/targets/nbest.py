"""A teacher's own n-best lists: beam search without a language model over its posteriors, stored as text.

A teacher of characters can serve a student of subwords this way, which frame posteriors cannot.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from asr_kd.corpora.manifest import Utterance
from asr_kd.decoding.flashlight import NbestDecoder
from asr_kd.targets.hypotheses import (
    HYPOTHESES,
    HypothesesInfo,
    HypothesesSource,
    TextHypothesis,
    distinct,
    hypotheses_shard,
)
from asr_kd.targets.settings import ShardSettings, TargetSettings, Variant
from asr_kd.targets.shard_manifest import QuarantineEntry, ShardManifest
from asr_kd.targets.sharded_extraction import (
    MadeShard,
    Reading,
    ShardedExtraction,
    ShardReport,
    batches_by_teacher,
    read_batches,
)
from asr_kd.targets.sharding import EVERYTHING, PlannedShard, Share, manifest_sha256, plan_shards
from asr_kd.targets.storage import open_storage
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.teachers.base import Teacher
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.vocabulary import WORD_SEPARATOR


class NbestSettings(ShardSettings):
    """Settings of n-best lists."""

    count: int = Field(default=8, ge=1, le=100)
    """Different texts of an utterance that are kept."""
    beam_size: int = Field(default=20, ge=1, le=1000)
    """Prefixes that the search follows."""

    @model_validator(mode="after")
    def _beam_holds_them(self) -> "NbestSettings":
        if self.beam_size < self.count:
            raise ValueError(f"beam_size {self.beam_size} cannot give count {self.count} hypotheses")
        return self


def extract_hypotheses(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: NbestSettings,
    folder: Path | str,
    normalizer: Normalizer,
    share: Share = EVERYTHING,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[float, float], None] = lambda done, total: None,
) -> ShardReport[HypothesesInfo]:
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
    # Hypotheses are text: they hold at every speed at which the audio is played.
    plan = plan_shards(utterances, TargetSettings(speeds=(1.0,), shard_seconds=settings.shard_seconds))
    info = HypothesesInfo(
        source=HypothesesSource(kind="teacher", name=teacher.name, sha256=teacher.sha256),
        normalizer=normalizer,
        manifest_sha256=manifest_sha256(utterances),
        settings=settings.model_dump(include={"count", "beam_size", "shard_seconds"}),
        planned_shards=len(plan),
    )
    vocabulary = teacher.vocabulary
    separator = vocabulary.symbols.index(WORD_SEPARATOR) if WORD_SEPARATOR in vocabulary.symbols else None
    decoder = NbestDecoder(len(vocabulary), vocabulary.blank_id, separator, beam_size=settings.beam_size)

    def make(shard: PlannedShard, run: ShardedExtraction[Any, Any]) -> MadeShard:
        found: dict[str, list[TextHypothesis]] = {}
        quarantine: list[QuarantineEntry] = []
        planned = batches_by_teacher(teacher, shard.utterances, settings.batch_seconds)
        with closing(read_batches([batch for _, batch in planned], (Variant(1.0),), settings.readers)) as read:
            for (assigned, _), batch in zip(planned, read, strict=True):
                run.before_batch()
                for item, nbest in zip(batch, _search(assigned, batch, decoder, normalizer), strict=True):
                    if isinstance(nbest, str):
                        quarantine.append(QuarantineEntry.of(item.utterance, nbest))
                    else:
                        found[item.utterance.id] = distinct(nbest, settings.count)
                run.after_batch(quarantine, sum(item.utterance.duration for item in batch))
        return hypotheses_shard(shard, found, quarantine)

    manifest = ShardManifest(HYPOTHESES, open_storage(folder), info, plan)
    return ShardedExtraction(manifest, share, make, settings.max_quarantine_share, should_stop, progress).run()


def _search(
    teacher: Teacher, batch: Sequence[Reading], decoder: NbestDecoder, normalizer: Normalizer
) -> list[list[TextHypothesis] | str]:
    """Return the hypotheses of each utterance, or the reason why there are none."""
    usable = [item for item in batch if item.problem is None]
    results: dict[str, list[TextHypothesis] | str] = {item.utterance.id: item.problem or "" for item in batch}
    if usable:
        ids = [item.utterance.id for item in usable]
        dense, _ = run_teacher(teacher, [item.waveforms[0] for item in usable], ids=ids)
        searched = decoder.decode(dense.log_probs, dense.lens)
        for id_, frames, nbest in zip(ids, dense.lens.tolist(), searched, strict=True):
            if frames == 0:
                results[id_] = f"too short for the teacher: no frame of {teacher.frame_shift_ms:g} ms"
            elif not nbest:
                results[id_] = "the teacher's posteriors are not finite"
            else:
                texts = ((normalize(teacher.vocabulary.decode(tokens), normalizer), score) for tokens, score in nbest)
                results[id_] = [TextHypothesis(*text) for text in texts]
    return list(results.values())
