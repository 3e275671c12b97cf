"""Writes a bundle: graph, tokens and a description to run and trace it by; verified before it gets its name.

Knows nothing of recipes or corpora: what to trace and which utterances to verify on are given.
"""

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.errors import BundleError
from asr_kd.export.onnx import write_onnx
from asr_kd.export.parity import verify_bundle
from asr_kd.export.sherpa import SherpaWire
from asr_kd.features.fbank import FEATURE_CONTRACT
from asr_kd.files import atomic_folder, write_json
from asr_kd.models.settings import Context, Streaming
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.models.weights import LoadedModel, load_model
from asr_kd.runtime.bundle import (
    BPE_MODEL,
    DESCRIPTION,
    MODEL,
    TOKENS,
    BundleInfo,
    Files,
    Latency,
    Trace,
    VocabularyEntry,
    file_entry,
)
from asr_kd.runtime.padding import DEFAULT_TAIL_MS, LOOKAHEAD_MS
from asr_kd.runtime.recognizer import with_context
from asr_kd.runtime.wire import WireFormat, unprintable_tokens

TRACED_PACKAGES = ("asr-kd", "torch", "onnx", "onnxscript", "onnxruntime", "sherpa-onnx")


class ExportSettings(Settings):
    """How a model is exported."""

    context: Context | None = None
    """Chunk and left context in 40 ms frames; None keeps the model's own. Others suit dynamic-chunk models."""
    tail_ms: int = Field(default=DEFAULT_TAIL_MS, ge=0, le=10_000)
    """Silence after the end of speech in which the model finishes its last word."""
    client: bool = True
    """Also verify with the real sherpa-onnx client, in a process of its own."""


def export_bundle(
    model_folder: Path,
    destination: Path,
    waveforms: Sequence[Tensor],
    *,
    recipe: str | None = None,
    wer: dict[str, float] | None = None,
    settings: ExportSettings | None = None,
) -> BundleInfo:
    """Export a trained streaming model and verify the result; it appears at `destination` whole or not at all.

    Args:
        model_folder: a folder that `models.weights.save_model` wrote.
        destination: the bundle's folder; an older bundle there is replaced only by a verified one.
        waveforms: [S] each, real speech at 16 kHz to verify on.
        recipe: what the model was trained by, for the trace.
        wer: test set → word error rate (a fraction) of the model, for the trace.
        settings: how to export.

    Returns:
        What stands in bundle.json, the parity report included.

    Raises:
        CheckpointError: the model folder is damaged.
        BundleError: a full-context model, or the bundle does not do what its model does.
        MissingExtraError: the extra ``export`` is not installed.
    """
    settings = settings or ExportSettings()
    source, streaming = _streaming_model(model_folder, settings)
    latency = _latency(streaming, settings.tail_ms)
    trace = Trace(model_sha256=source.sha256, recipe=recipe, wer=wer or {}, card=source.card)
    with atomic_folder(destination) as partial:
        _write_files(partial, source)
        info = _describe(partial, destination.name, source, latency, trace)
        write_json(partial / DESCRIPTION, info.model_dump(mode="json"))
        report = verify_bundle(partial, source, waveforms, with_client=settings.client)
        info = info.model_copy(update={"parity": report.model_dump(mode="json")})
        write_json(partial / DESCRIPTION, info.model_dump(mode="json"))
    return info


def _streaming_model(model_folder: Path, settings: ExportSettings) -> tuple[LoadedModel, Streaming]:
    source = load_model(model_folder)
    if source.model.settings.streaming is not None and settings.context:
        source = with_context(source, settings.context)
    streaming = source.model.settings.streaming
    if streaming is None:
        raise BundleError(
            "is a full-context model",
            where=model_folder,
            expected="a streaming one: the client's format is for chunks with caches",
            remedy="Export a student, or train this model with model.streaming",
        )
    return source, streaming


def _write_files(folder: Path, source: LoadedModel) -> None:
    source.vocabulary.save(folder / TOKENS)
    wire = WireFormat.of(source.model.settings, len(source.vocabulary))
    notes = {"model_type": "zipformer2", "producer": "asr-kd", "source_sha256": source.sha256}
    write_onnx(SherpaWire(source.model, unprintable_tokens(source.vocabulary)), wire, folder / MODEL, notes)


def _describe(folder: Path, name: str, source: LoadedModel, latency: Latency, trace: Trace) -> BundleInfo:
    return BundleInfo(
        name=name,
        features=dict(FEATURE_CONTRACT),
        model=source.model.settings,
        num_parameters=source.model.num_parameters,
        streaming=latency,
        vocabulary=VocabularyEntry(
            size=len(source.vocabulary), blank_id=source.vocabulary.blank_id, sha256=source.vocabulary.sha256
        ),
        files=Files(
            model=file_entry(folder / MODEL),
            tokens=file_entry(folder / TOKENS),
            bpe=file_entry(folder / BPE_MODEL) if source.vocabulary.bpe is not None else None,
        ),
        trace=trace,
        versions=_versions(),
    )


def _latency(streaming: Streaming, tail_ms: int) -> Latency:
    chunk_ms = streaming.chunk_frames * FRAME_SHIFT_MS
    return Latency(
        chunk_frames=streaming.chunk_frames,
        left_context_frames=streaming.left_context_frames,
        chunk_ms=chunk_ms,
        lookahead_ms=LOOKAHEAD_MS,
        latency_ms=chunk_ms + LOOKAHEAD_MS,
        tail_ms=tail_ms,
    )


def _versions() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in TRACED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
