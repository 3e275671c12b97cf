"""Settings of an evaluation. Knows nothing else."""

from pathlib import Path

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.evaluation.measuring_settings import MeasuringSettings
from asr_kd.text.normalize import ScoringNormalizer


class ReportSettings(Settings):
    """The page that shows an evaluation, report/index.html."""

    utterances: int = Field(40, ge=0, le=1_000)
    """Utterances shown with waveform, spectrogram and token posteriors; every other one with its words."""
    audio: bool = True
    """Whether these can be listened to. The page then holds recordings: think of who may hear them."""
    max_mb: float = Field(12.0, gt=0, le=500)
    """Largest page, megabytes: sounds and pictures are left out beyond it, then utterances without errors."""


class EvaluationSettings(MeasuringSettings):
    """How systems are scored and timed."""

    later = frozenset({"decoding", "others", "report"}) | MeasuringSettings.later

    normalizer: ScoringNormalizer = "librispeech"
    """Applied to references and hypotheses of every system alike, and stated in the report."""
    decoding: DecodingSettings = DecodingSettings()
    """How every system's posteriors become text."""
    bootstrap_samples: int = Field(2_000, ge=200, le=100_000)
    bootstrap_seed: int = Field(0, ge=0)
    rtf_utterances: int = Field(20, ge=0)
    """Utterances that are timed one by one on one thread; 0 measures no real-time factor."""
    batch_seconds: float = Field(60.0, gt=0)
    """Audio handed to a system at once, padding included."""
    max_excluded_share: float = Field(0.1, ge=0, le=1)
    """Evaluation stops when a larger share of a test set cannot be used."""
    report: ReportSettings = ReportSettings()
    """The page."""
    others: dict[str, Path] = Field(default={})
    """Other people's systems, scored beside this recipe's: name → their hypotheses (.trn, .ctm, .jsonl, Kaldi's
    `text`), matched by utterance id."""
