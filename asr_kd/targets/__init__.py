"""Soft targets on disk: made once with a teacher, read at random by utterance, checked on the way."""

from asr_kd.posteriors.types import collate
from asr_kd.targets.extract import ExtractionReport, extract
from asr_kd.targets.settings import TargetSettings, variant_name
from asr_kd.targets.store import Store, StoreInfo

__all__ = [
    "ExtractionReport",
    "Store",
    "StoreInfo",
    "TargetSettings",
    "collate",
    "extract",
    "variant_name",
]
