"""A teacher's own n-best lists: beam search without a language model over its posteriors, stored as text.

A teacher of characters can serve a student of subwords this way, which frame posteriors cannot.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pydantic import Field, model_validator

from asr_kd.corpora.manifest import Utterance
from asr_kd.decoding.flashlight import NbestDecoder
from asr_kd.targets.hypotheses import HypothesesInfo, HypothesesSource, TextHypothesis, distinct, hypothesis_rows
from asr_kd.targets.settings import ShardSettings
from asr_kd.targets.shard_manifest import ShardManifest, json_lines_shard
from asr_kd.targets.sharded_extraction import Reading, ShardedExtraction, ShardMaker, ShardReport, batches_by_teacher
from asr_kd.targets.sharding import EVERYTHING, Share, manifest_sha256, plan_shards
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
    """Keep a teacher's n-best of each utterance as `extract` keeps posteriors; transcripts are not used.

    `normalizer` is the student's; hypotheses are written under it.

    Raises:
        TargetsError, StoppedEarly: as `extract`.
        MissingExtraError: flashlight-text is not installed.
    """
    # Hypotheses are text: they hold at every speed at which the audio is played.
    plan = plan_shards(utterances, settings)
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

    maker = ShardMaker(
        batches=lambda utterances: batches_by_teacher(teacher, utterances, settings.batch_seconds),
        label=lambda assigned, batch: _search(assigned, batch, decoder, normalizer, settings.count),
        pack=lambda shard, found: json_lines_shard(shard, hypothesis_rows(found, shard.utterances)),
        settings=settings,
    )
    manifest = ShardManifest(open_storage(folder), info, plan)
    return ShardedExtraction(manifest, share, maker, should_stop, progress).run()


def _search(
    teacher: Teacher, batch: Sequence[Reading], decoder: NbestDecoder, normalizer: Normalizer, count: int
) -> Iterator[list[TextHypothesis] | str]:
    """Yield the hypotheses of each utterance, or the reason why there are none."""
    ids = [item.utterance.id for item in batch]
    dense, _ = run_teacher(teacher, [item.waveforms[0] for item in batch], ids=ids)
    for frames, nbest in zip(dense.lens.tolist(), decoder.decode(dense.log_probs, dense.lens), strict=True):
        if frames == 0:
            yield f"too short for the teacher: no frame of {teacher.frame_shift_ms:g} ms"
        elif not nbest:
            yield "the teacher's posteriors are not finite"
        else:
            texts = ((normalize(teacher.vocabulary.decode(tokens), normalizer), score) for tokens, score in nbest)
            yield distinct((TextHypothesis(*text) for text in texts), count)
