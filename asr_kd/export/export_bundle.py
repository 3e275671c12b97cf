"""Export a model as a bundle: graphs, tokens and a description, verified before the bundle gets its name."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import readable_utterances
from asr_kd.errors import BundleError
from asr_kd.evaluation.comparison import ends, error_counts, word_counts
from asr_kd.export.graphs import SherpaWire, write_int8, write_onnx, write_pt2
from asr_kd.export.parity import verify_bundle
from asr_kd.export.readme import write_readme
from asr_kd.export.web import write_web
from asr_kd.features.fbank import FEATURE_CONTRACT
from asr_kd.files import atomic_folder, write_json
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.settings import Context, SavedContext, Streaming
from asr_kd.models.weights import LoadedModel, load_model
from asr_kd.progress import SILENT, Progress
from asr_kd.runtime.backend import DEFAULT_TAIL_MS
from asr_kd.runtime.bundle import (
    BPE_MODEL,
    DESCRIPTION,
    INT8,
    MODEL,
    PT2,
    TOKENS,
    BundleInfo,
    Files,
    Latency,
    Trace,
    VocabularyEntry,
    file_entry,
)
from asr_kd.runtime.recognizer import open_recognizer, with_context
from asr_kd.runtime.wire import WireFormat, unprintable_tokens
from asr_kd.scoring.significance import bootstrap_difference
from asr_kd.scoring.wer import score
from asr_kd.text.normalize import ScoringNormalizer

FORMS = {"model": MODEL, "int8": INT8, "pt2": PT2}
TRACED_PACKAGES = ("asr-kd", "torch", "onnx", "onnxscript", "onnxruntime", "sherpa-onnx")


Format = Literal["sherpa", "pt2", "web"]


class ExportSettings(Settings):
    """Settings of an export."""

    context: SavedContext | None = None
    """Chunk, left and right context (0 where it is left out) in 40 ms frames; None keeps the model's own. Other chunks
    suit dynamic-chunk models."""
    tail_ms: int = Field(default=DEFAULT_TAIL_MS, ge=0, le=10_000)
    """Silence after the end of speech in which the model finishes its last word, ms."""
    client: bool = True
    """Also verify with the real sherpa-onnx client, in its own process."""
    formats: tuple[Format, ...] = Field(default=("sherpa",), min_length=1)
    """sherpa: model.onnx, for sherpa-onnx and onnxruntime; pt2: model.pt2, for torch; web: a page that runs the
    model in the browser, in the folder NAME-web beside the bundle."""
    int8: bool = False
    """Also model.int8.onnx: matrices as 8-bit integers, a quarter of the size and faster on a CPU."""
    licence: str | None = None
    """Licence of the model, such as an SPDX name; it depends on the recordings too. None: not stated."""

    @model_validator(mode="after")
    def _check_forms(self) -> "ExportSettings":
        if self.int8 and "sherpa" not in self.formats:
            raise ValueError("int8 is a form of model.onnx: it needs the format sherpa")
        if "web" in self.formats and "sherpa" not in self.formats:
            raise ValueError("web runs model.onnx: it needs the format sherpa")
        return self


@dataclass(frozen=True)
class Origin:
    """Where a bundle's model comes from, in addition to the model folder."""

    recipe: str | None = None
    name: str | None = None
    """Name of the model; None: that of the bundle's folder."""
    wer: Mapping[str, float] = field(default_factory=dict)
    """Test set → word error rate (a fraction) of the model as measured with its own chunks and greedy decoding, as
    bundles decode; a bundle with other chunks does not state it."""
    card: str | None = None
    """A model card, Markdown, with these rates; None, or a bundle that does not state them: a short one is written."""
    held_out: Sequence[Utterance] = ()
    """Utterances with references, on which the error rate of 8-bit weights is measured; empty: not measured."""
    normalizer: ScoringNormalizer = "librispeech"
    """How references and outputs are normalized before they are compared; as in `wer`."""


def export_bundle(
    model_folder: Path,
    destination: Path,
    waveforms: Sequence[Tensor],
    *,
    origin: Origin | None = None,
    settings: ExportSettings | None = None,
    progress: Progress = SILENT,
) -> BundleInfo:
    """Export a trained streaming model and verify the bundle, which appears at `destination` whole or not at all.

    Args:
        model_folder: a folder that `models.weights.save_model` wrote.
        destination: the bundle's folder; an older bundle there is replaced only by a verified one.
        waveforms: [S] each, real speech at 16 kHz to verify on.
        origin: for the trace and the card.
        settings, progress: of the export.

    Returns:
        The content of bundle.json, with the parity report.

    Raises:
        CheckpointError: the model folder is damaged.
        BundleError: a full-context model, or the bundle gives other results than its model.
        MissingExtraError: the extra ``export`` is not installed.
    """
    settings, origin = settings or ExportSettings(), origin or Origin()
    source, streaming, own = _streaming_model(model_folder, settings)
    chunk_ms, measured = streaming.chunk_frames * FRAME_SHIFT_MS, origin.wer if streaming == own else {}
    latency = Latency(
        **streaming.context._asdict(),
        chunk_ms=chunk_ms,
        lookahead_ms=streaming.context.lookahead_ms,
        latency_ms=chunk_ms + streaming.context.lookahead_ms,
        tail_ms=settings.tail_ms,
    )
    trace = Trace(
        model_sha256=source.sha256,
        recipe=origin.recipe,
        wer=dict(measured),
        trained=streaming.context in (own.train_contexts or (own.context,)),
        card=source.card,
    )
    with atomic_folder(destination, guard=True) as partial:
        _write_files(partial, source, settings)
        info = _describe(partial, origin.name or destination.name, source, latency, trace)
        info = info.model_copy(update={"licence": settings.licence})
        write_json(partial / DESCRIPTION, info.model_dump(mode="json"))
        report = verify_bundle(partial, source, waveforms, with_client=settings.client)
        info = info.model_copy(update={"parity": report.model_dump(mode="json")})
        if settings.int8 and origin.held_out:
            compared = compare_int8(partial, origin.held_out, progress, origin.normalizer)
            info = info.model_copy(update={"int8_wer": compared})
        write_json(partial / DESCRIPTION, info.model_dump(mode="json"))
        write_readme(partial, info, origin.card if measured else None, own)
    if "web" in settings.formats:
        write_web(destination, web_folder(destination))
    return info


def web_folder(bundle: Path) -> Path:
    """Return where the page of a bundle lies."""
    return bundle.with_name(f"{bundle.name}-web")


def bundle_places(contexts: Sequence[Context], destination: Path) -> dict[Path, Context | None]:
    """Return folder → context of each bundle of a model; several are written to folders in `destination`.

    Several contexts need a dynamic-chunk model; without any it is the model's own (None).
    """
    if len(contexts) < 2:
        return {destination: contexts[0] if contexts else None}
    return {destination / _place(context): context for context in contexts}


def _place(context: Context) -> str:
    chunk, left, right = (frames * FRAME_SHIFT_MS for frames in context)
    return f"chunk-{chunk}ms-left-{left}ms" + (f"-right-{right}ms" if right else "")


def _streaming_model(model_folder: Path, settings: ExportSettings) -> tuple[LoadedModel, Streaming, Streaming]:
    """The model in the context that is exported, that context, and the model's own."""
    source = load_model(model_folder)
    own = source.model.settings.streaming
    if own is not None and settings.context:
        source = with_context(source, settings.context)
    streaming = source.model.settings.streaming
    if streaming is None or own is None:
        raise BundleError(
            "is a full-context model",
            where=model_folder,
            expected="a streaming one: the client's format is for chunks with caches",
            remedy="Export a student, or train this model with model.streaming",
        )
    return source, streaming, own


def _write_files(folder: Path, source: LoadedModel, settings: ExportSettings) -> None:
    source.vocabulary.save(folder / TOKENS)
    wire = WireFormat.of(source.model.settings, len(source.vocabulary))
    module = SherpaWire(source.model, unprintable_tokens(source.vocabulary))
    notes = {"model_type": "zipformer2", "producer": "asr-kd", "source_sha256": source.sha256}
    if "sherpa" in settings.formats:
        write_onnx(module, wire, folder / MODEL, notes)
    if settings.int8:
        write_int8(folder / MODEL, folder / INT8)
    if "pt2" in settings.formats:
        write_pt2(module, wire, folder / PT2)


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
            **{key: file_entry(folder / name) for key, name in FORMS.items() if (folder / name).is_file()},
            tokens=file_entry(folder / TOKENS),
            bpe=file_entry(folder / BPE_MODEL) if source.vocabulary.bpe is not None else None,
        ),
        trace=trace,
        versions=_versions(),
    )


def _versions() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in TRACED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def compare_int8(
    folder: Path,
    utterances: Sequence[Utterance],
    progress: Progress = SILENT,
    normalizer: ScoringNormalizer = "librispeech",
) -> dict[str, Any]:
    """Compare word error rates of a bundle's int8 and float32 graphs, with a paired interval over speakers.

    Utterances are transcribed one at a time, because streams of a batch share a scale. Damaged audio is left out.

    Returns:
        wer_fp32, wer_int8 and difference (fractions), its 95 % interval low and high (None: one speaker only), and
        the numbers of utterances, words and speakers.

    Raises:
        BundleError: damaged, or without one of the two graphs.
        EvaluationError: no reference of readable audio holds a word.
    """
    with_text = {utterance.id: utterance for utterance in utterances if utterance.text is not None}
    transcribed: dict[str, Utterance] = {}
    graphs = {name: open_recognizer(folder / name) for name in (MODEL, INT8)}
    texts: dict[str, dict[str, str]] = {name: {} for name in graphs}
    for utterance, waveform in readable_utterances(with_text.values(), progress):
        transcribed[utterance.id] = utterance
        for name, recognizer in graphs.items():
            texts[name][utterance.id] = recognizer.transcribe([waveform])[0]
        progress.update("int8 beside fp32", len(transcribed), len(with_text), "utterances")
    references = {utterance_id: utterance.text or "" for utterance_id, utterance in transcribed.items()}
    full, small = (score(references, texts[name], normalizer) for name in (MODEL, INT8))
    speakers = [utterance.speaker for utterance in transcribed.values()]
    several = len(set(speakers)) > 1
    found = bootstrap_difference(
        error_counts(small), error_counts(full), word_counts(full), groups=speakers if several else None
    )
    return {
        "wer_fp32": full.wer,
        "wer_int8": small.wer,
        "difference": found.value,
        **ends(found.interval),
        "texts_equal": sum(texts[MODEL][utterance_id] == texts[INT8][utterance_id] for utterance_id in transcribed),
        "utterances": len(transcribed),
        "words": full.words.length,
        "speakers": len(set(speakers)),
        "resampled_by": "speakers" if several else "utterances",
        "normalizer": normalizer,
    }
