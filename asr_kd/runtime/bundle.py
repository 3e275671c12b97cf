"""Exported bundles on disk: their description, and reading them with all files verified.

A bundle is a folder with tokens.txt, bundle.json and the model in one or more forms: model.onnx, model.int8.onnx (8-bit
weights), model.pt2 (torch.export). Subword vocabularies have a bpe.model, which clients do not need. Damage is found
here, in Python, because native clients end their whole process on some of it. Reading a bundle runs no code from it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from asr_kd.config import Settings
from asr_kd.errors import BundleError, VocabularyError
from asr_kd.features.fbank import FEATURE_CONTRACT
from asr_kd.files import read_json
from asr_kd.hub import local_folder
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.models.settings import Context, ModelSettings
from asr_kd.runtime.wire import WireFormat
from asr_kd.text.bpe import MODEL as BPE_MODEL
from asr_kd.text.vocabulary import Vocabulary

FORMAT, FORMAT_VERSION = "asr-kd bundle", 1
DESCRIPTION, MODEL, TOKENS = "bundle.json", "model.onnx", "tokens.txt"
INT8, PT2 = "model.int8.onnx", "model.pt2"
GRAPHS = (MODEL, INT8, PT2)
"""Forms of the model; the first that exists is the default."""

COPY_AGAIN = "Copy the whole bundle again, or export the model again"


class FileEntry(Settings):
    """Hash and size of a file of the bundle."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=1)


class Files(Settings):
    """The files that are read, under fixed names."""

    model: FileEntry | None = None
    """model.onnx."""
    int8: FileEntry | None = None
    """model.int8.onnx."""
    pt2: FileEntry | None = None
    """model.pt2."""
    tokens: FileEntry
    bpe: FileEntry | None = None
    """bpe.model, where the tokens are subwords."""

    @model_validator(mode="after")
    def _check_model(self) -> "Files":
        if not self.graphs:
            raise ValueError(f"there is none of {', '.join(GRAPHS)}")
        return self

    @property
    def graphs(self) -> dict[str, FileEntry]:
        """Forms of the model in the bundle, by file name."""
        entries = zip(GRAPHS, (self.model, self.int8, self.pt2), strict=True)
        return {name: entry for name, entry in entries if entry is not None}


class Latency(Settings):
    """Streaming settings in frames of 40 ms and in milliseconds."""

    chunk_frames: int = Field(ge=1)
    left_context_frames: int = Field(ge=1)
    right_context_frames: int = Field(0, ge=0)
    chunk_ms: int = Field(ge=1)
    lookahead_ms: int = Field(ge=0)
    latency_ms: int = Field(ge=1)
    """Longest wait from a sound to its step: a chunk and its look-ahead, without computing time."""
    tail_ms: int = Field(ge=0)
    """Silence that a client should append after the end of speech, in addition to completing the chunk."""

    @property
    def described(self) -> str:
        """The chunk and, if there is any, its right context, for messages."""
        right_ms = FRAME_SHIFT_MS * self.right_context_frames
        return f"chunks of {self.chunk_ms} ms" + (f" and {right_ms} ms of right context" if right_ms else "")

    @property
    def context(self) -> Context:
        """The same in frames."""
        return Context(self.chunk_frames, self.left_context_frames, self.right_context_frames)


class VocabularyEntry(Settings):
    """The tokens, by size and hash."""

    size: int = Field(ge=2)
    blank_id: int = Field(ge=0)
    sha256: str


class Trace(Settings):
    """Origin of the bundle."""

    model_sha256: str
    """Hash of the source model's weights."""
    recipe: str | None = None
    wer: dict[str, float] = Field(default_factory=dict)
    """Test set → word error rate (a fraction), measured with the bundle's chunks and greedy decoding; empty: not
    measured so."""
    trained: bool = True
    """Whether the model was trained with the context of the bundle."""
    card: dict[str, Any] = Field(default_factory=dict)
    """Description of the source model, written by training."""


class BundleInfo(Settings):
    """bundle.json."""

    format: Literal["asr-kd bundle"] = "asr-kd bundle"
    version: Literal[1] = 1
    name: str
    wire_format: Literal["sherpa-onnx zipformer2_ctc"] = "sherpa-onnx zipformer2_ctc"
    features: dict[str, Any]
    model: ModelSettings
    num_parameters: int = Field(ge=1)
    streaming: Latency
    vocabulary: VocabularyEntry
    files: Files
    trace: Trace
    licence: str | None = None
    """Licence of the model; None: not stated."""
    versions: dict[str, str] = Field(default_factory=dict)
    parity: dict[str, Any] = Field(default_factory=dict)
    """Comparison with the source model; see ``export.parity``."""
    int8_wer: dict[str, Any] = Field(default_factory=dict)
    """Word error rates with 8-bit weights and without, on held-out speakers; see ``export.export_bundle``."""


@dataclass(frozen=True)
class Bundle:
    """A bundle with verified files. The graph is verified when it is loaded."""

    folder: Path
    info: BundleInfo
    vocabulary: Vocabulary
    graph: str
    """File name of the form to run."""
    graph_bytes: bytes
    """The bytes that were hashed; these are run."""

    @property
    def context(self) -> Context:
        return self.info.streaming.context

    def error(self, found: str, *, expected: str = "", remedy: str = COPY_AGAIN) -> BundleError:
        """Return an error about the form to run."""
        return BundleError(found, where=self.folder / self.graph, expected=expected, remedy=remedy)

    @property
    def wire(self) -> WireFormat:
        """Required inputs, outputs and metadata of the graph."""
        return WireFormat.of(self.info.model, self.info.vocabulary.size)


def read_bundle(folder: Path, graph: str | None = None) -> Bundle:
    """Read a bundle and verify every file in it, without loading the graph, a name of `GRAPHS` (None: the first).

    Raises:
        BundleError: names the file: missing, damaged (SHA-256), of another version, inconsistent.
    """
    info = _read_info(folder)
    graphs = info.files.graphs
    graph = graph or next(iter(graphs))
    if graph not in graphs:
        raise BundleError(f"holds no {graph}", where=folder, expected=f"one of {', '.join(graphs)}")
    named = (*graphs.items(), (TOKENS, info.files.tokens), (BPE_MODEL, info.files.bpe))
    contents = {name: _read_checked(folder / name, entry) for name, entry in named if entry is not None}
    try:
        vocabulary = Vocabulary.load(folder / TOKENS)
    except VocabularyError as error:
        raise BundleError(error.found, expected=error.expected, where=error.where, remedy=COPY_AGAIN) from error
    entry = info.vocabulary
    if (len(vocabulary), vocabulary.blank_id, vocabulary.sha256) != (entry.size, entry.blank_id, entry.sha256):
        raise BundleError(
            f"{len(vocabulary)} tokens, blank {vocabulary.blank_id}, SHA-256 {vocabulary.sha256[:12]}…",
            expected=f"{entry.size} tokens, blank {entry.blank_id}, SHA-256 {entry.sha256[:12]}… in {DESCRIPTION}",
            where=folder / TOKENS,
            remedy=COPY_AGAIN,
        )
    return Bundle(folder, info, vocabulary, graph, contents[graph])


def split_graph(path: Path) -> tuple[Path, str | None]:
    """Split a path into a bundle's folder and a form of the model; None for the folder itself or a repository."""
    path = local_folder(path)
    return (path.parent, path.name) if path.name in GRAPHS and path.is_file() else (path, None)


def file_entry(path: Path) -> FileEntry:
    """Return the entry that describes a file."""
    content = path.read_bytes()
    return FileEntry(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _read_info(folder: Path) -> BundleInfo:
    path = folder / DESCRIPTION
    if not path.is_file():
        raise BundleError(
            f"is not a bundle: {DESCRIPTION} is missing" if folder.is_dir() else "is not a folder",
            where=folder,
            expected=f"a folder with {DESCRIPTION}, {MODEL} and {TOKENS}",
            remedy="Export the model with asr-kd export",
        )
    try:
        data = read_json(path)
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot be read ({error})", where=path, remedy=COPY_AGAIN) from error
    if data.get("format") != FORMAT:
        raise BundleError("does not describe an asr-kd bundle", where=path, expected=f'"format": "{FORMAT}"')
    if data.get("version") != FORMAT_VERSION:
        raise BundleError(
            f"format version {data.get('version')!r}",
            where=path,
            expected=f"version {FORMAT_VERSION}",
            remedy="Use the release of asr-kd that wrote it, or export the model again",
        )
    try:
        info = BundleInfo.model_validate(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors(include_url=False)
        )
        raise BundleError(problems, where=path, remedy=COPY_AGAIN) from error
    streaming = info.model.streaming
    if info.features != FEATURE_CONTRACT:
        raise BundleError(f"expects features {info.features}", where=path, expected=str(FEATURE_CONTRACT))
    if streaming is None:
        raise BundleError("holds a full-context model", where=path, expected="a model with streaming settings")
    stated = info.streaming.context
    if stated != streaming.context:
        raise BundleError(
            f"streaming states {stated}",
            where=path,
            expected=f"{streaming.context} as its model states",
        )
    return info


def _read_checked(path: Path, entry: FileEntry) -> bytes:
    """The bytes of a file, with its hash verified."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror})", where=path, remedy=COPY_AGAIN) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != entry.sha256:
        raise BundleError(
            f"{len(content)} bytes with SHA-256 {sha256[:12]}…",
            where=path,
            expected=f"{entry.size_bytes} bytes with SHA-256 {entry.sha256[:12]}… as {DESCRIPTION} states",
            remedy=f"The file is damaged or was replaced. {COPY_AGAIN}",
        )
    return content
