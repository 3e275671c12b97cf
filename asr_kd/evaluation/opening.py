"""Model folders and bundles as systems to evaluate. Knows nothing of how they are scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_kd.evaluation.systems import Role, System
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.bundle import read_bundle
from asr_kd.runtime.recognizer import open_recognizer


def open_system(
    name: str, role: Role, folder: Path, *, device: str = "cpu", details: Mapping[str, Any] | None = None
) -> System:
    """Open a model folder (torch) or a bundle (onnxruntime) under a name.

    Args:
        device: of a model folder.
        details: further facts for the report, such as the training seed; plain data.

    Raises:
        CheckpointError: neither of the two, or a damaged model folder.
        BundleError: a damaged bundle.
        MissingExtraError: a bundle, without onnxruntime.
    """
    recognizer = open_recognizer(folder, device=device)
    backend, context = recognizer.backend, recognizer.context
    if isinstance(backend, TorchBackend):
        parameters = sum(weights.numel() for weights in backend.model.parameters())
        engine, where = "torch", str(backend.model.mean.device)
    else:
        parameters = read_bundle(folder).info.num_parameters
        engine, where = "onnxruntime", "cpu"
    streaming = {
        "chunk_ms": context.chunk_frames * FRAME_SHIFT_MS if context else None,
        "left_context_ms": context.left_context_frames * FRAME_SHIFT_MS if context else None,
    }
    facts = {"engine": engine, **streaming, **(details or {})}
    return System(name, role, recognizer, weights=folder, parameters=parameters, device=where, details=facts)
