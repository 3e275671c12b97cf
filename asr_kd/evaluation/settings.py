"""Settings of an evaluation. Knows nothing else."""

from pydantic import Field

from asr_kd.config import Settings
from asr_kd.text.normalize import Normalizer


class EvaluationSettings(Settings):
    """How systems are scored and timed."""

    normalizer: Normalizer = "librispeech"
    """Applied to references and hypotheses of every system alike, and stated in the report."""
    bootstrap_samples: int = Field(2_000, ge=200, le=100_000)
    bootstrap_seed: int = Field(0, ge=0)
    rtf_utterances: int = Field(20, ge=0)
    """Utterances that are timed one by one on one thread; 0 measures no real-time factor."""
    batch_seconds: float = Field(60.0, gt=0)
    """Audio handed to a system at once, padding included."""
    max_excluded_share: float = Field(0.1, ge=0, le=1)
    """Evaluation stops when a larger share of a test set cannot be used."""
