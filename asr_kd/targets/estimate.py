"""What an extraction would cost, from a timed sample of it. Writes nothing.

Knows teachers and plans; the sample goes the same way as the extraction itself.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError
from asr_kd.targets.extract import entry_of
from asr_kd.targets.labelling import Labels, label
from asr_kd.targets.pooled import Transcripts
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.shard import shard_bytes
from asr_kd.targets.sharding import PlannedShard, plan_shards, variant_seconds
from asr_kd.teachers.base import Teacher

SAMPLE_SECONDS = 300.0
"""Audio of the timed sample, over all variants; about so much again warms the device up before it."""
WARM_UP_UTTERANCES = 4


@dataclass(frozen=True)
class PlanReport:
    """What an extraction would make and take."""

    shards: int
    utterances: int
    audio_seconds: float
    """Of the corpus."""
    variants: tuple[str, ...]
    labelled_seconds: float
    """Over all variants: what the teacher hears."""
    frames: int
    """Estimated, like all below."""
    num_bytes: int
    bytes_per_frame: float
    device_hours: float
    sampled_utterances: int
    sampled_seconds: float
    """Over all variants."""
    took_seconds: float
    """What the sample took, reading and packing included."""
    unusable: int
    """Utterances of the sample that would be quarantined."""

    @property
    def speed(self) -> float:
        """Seconds of audio a second."""
        return self.sampled_seconds / max(self.took_seconds, 1e-9)

    def lines(self, workers: int = 1) -> list[str]:
        """What to print; `workers` share the hours."""
        shared = f", {_time(self.device_hours / workers)} each on {workers} workers" if workers > 1 else ""
        unusable = f"; {self.unusable} of them cannot be used" if self.unusable else ""
        return [
            f"  {self.utterances} utterances, {_time(self.audio_seconds / 3600)} of audio, "
            f"{_time(self.labelled_seconds / 3600)} in the variants {', '.join(self.variants)}",
            f"  {self.shards} shards, about {self.frames} frames and {self.num_bytes / 1e6:.3g} MB "
            f"({self.bytes_per_frame:.2f} bytes a frame)",
            f"  about {_time(self.device_hours)} on this device at {self.speed:.0f} × real time{shared}",
            f"  estimated from {self.sampled_utterances} utterances ({self.sampled_seconds:.0f} s of audio in "
            f"{self.took_seconds:.1f} s, reading included){unusable}",
        ]


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def plan_report(
    teacher: Teacher,
    utterances: Sequence[Utterance],
    settings: TargetSettings,
    sample_seconds: float = SAMPLE_SECONDS,
    transcripts: Transcripts | None = None,
) -> PlanReport:
    """Plan an extraction and label an even sample of it, timed.

    Args:
        teacher: whose posteriors would be kept; already bridged.
        utterances: all of the corpus.
        settings: as for the extraction.
        sample_seconds: audio of the sample, over all variants.
        transcripts: as for the extraction.

    Raises:
        TargetsError: no utterances, or none of the sample can be used.
    """
    if not utterances:
        raise TargetsError("no utterances to extract", expected="a manifest with at least one")
    sample = _sample(utterances, settings, sample_seconds)
    codec = settings.codec(len(teacher.vocabulary), teacher.vocabulary.blank_id)
    transcripts = transcripts or {}
    _label(teacher, sample[-WARM_UP_UTTERANCES:], settings, transcripts)  # kernels are chosen and memory is taken here
    started = time.perf_counter()
    labels = _label(teacher, sample, settings, transcripts)
    took = time.perf_counter() - started
    if not labels.rows:
        raise TargetsError(
            f"none of the {len(sample)} sampled utterances can be used: {labels.quarantine[0].reason}",
            expected="audio that the teacher can hear",
            remedy="Run `asr-kd check`",
        )
    entry = entry_of(PlannedShard(0, tuple(sample), 0.0), shard_bytes(codec, labels.rows), labels.rows)
    heard = sum(variant_seconds(item, settings) for item in sample if item.id in labels.rows)
    labelled = sum(variant_seconds(item, settings) for item in utterances)
    frames, bytes_per_frame = labelled * entry.frames / heard, entry.num_bytes / max(entry.frames, 1)
    sampled = sum(variant_seconds(item, settings) for item in sample)
    return PlanReport(
        shards=len(plan_shards(utterances, settings)),
        utterances=len(utterances),
        audio_seconds=sum(item.duration for item in utterances),
        variants=settings.variants,
        labelled_seconds=labelled,
        frames=round(frames),
        num_bytes=round(frames * bytes_per_frame),
        bytes_per_frame=bytes_per_frame,
        device_hours=labelled * took / sampled / 3600,
        sampled_utterances=len(sample),
        sampled_seconds=sampled,
        took_seconds=took,
        unusable=len(labels.quarantine),
    )


def _label(teacher: Teacher, sample: Sequence[Utterance], settings: TargetSettings, transcripts: Transcripts) -> Labels:
    return label(teacher, sample, settings, transcripts, lambda: None, lambda labels, seconds: None)


def _sample(utterances: Sequence[Utterance], settings: TargetSettings, seconds: float) -> list[Utterance]:
    """Even over the lengths, so that batches are as full and as padded as they will be."""
    ordered = sorted(utterances, key=lambda item: (item.duration, item.id))
    mean = sum(variant_seconds(item, settings) for item in ordered) / len(ordered)
    count = max(1, min(len(ordered), round(seconds / mean)))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]
