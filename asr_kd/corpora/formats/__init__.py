"""Readers and writers of manifests of other tools: lhotse, NeMo, SpeechBrain, Kaldi. The tools are not needed.

Fields without a counterpart are counted; rows that cannot be utterances are listed with the reason; malformed rows are
errors.
"""

from typing import Literal

FormatName = Literal["asr-kd", "lhotse", "nemo", "speechbrain", "kaldi"]
"""Formats of this project and of other tools."""

ManifestFormat = Literal["auto", FormatName]
"""One of them, or the one that is detected."""
