"""Soft targets on disk: made once with a teacher, read at random by utterance, checked on the way.

Knows teachers and manifests, not students: soft targets outlive students.
"""

from asr_kd.posteriors.types import collate
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.settings import TargetSettings
from asr_kd.targets.store import Store, StoreInfo
from asr_kd.targets.variants import variant_name

__all__ = [
    "ExtractionReport",
    "Store",
    "StoreInfo",
    "TargetSettings",
    "collate",
    "extract",
    "variant_name",
]
