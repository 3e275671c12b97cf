"""asr_kd: turn a large acoustic model into a compact streaming one, and measure what it cost.

The folders follow the data: corpora → features → teachers → targets → models → losses → training →
decoding → evaluation → export. The Python interface is `asr_kd.api`; its names are importable from here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_kd.api import (
        SoftTargetStore,
        collate_targets,
        distill_loss,
        load_model,
        open_recognizer,
        score,
    )

__version__ = "0.1.0"
__all__ = ["SoftTargetStore", "collate_targets", "distill_loss", "load_model", "open_recognizer", "score"]


def __getattr__(name: str) -> Any:
    # On demand: `asr-kd --help` must not wait for torch.
    if name not in __all__:
        raise AttributeError(f"module 'asr_kd' has no attribute {name!r}")
    from asr_kd import api

    return getattr(api, name)
