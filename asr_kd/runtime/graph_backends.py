"""Run a graph of a bundle, after validating it: in onnxruntime, or as a file of torch.export in torch.

Only this file imports onnxruntime to run graphs. torch's reader unpickles members that an archive declares as pickles,
evaluates expressions and guards given as text, and calls any function of torch that a graph names. Our exporter writes
raw tensors and a graph of known operators only. Everything else is refused, and the verified content is written to a
new archive, which torch reads. Source: torch 2.14, ``torch/export/pt2_archive``, ``torch/_export/serde/serialize.py``.

Shapes: B utterances, N streams, T feature frames, C chunk frames, V vocabulary."""

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import import_extra
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.runtime.backend import run_chunks
from asr_kd.runtime.bundle import Bundle
from asr_kd.runtime.wire import BATCH, TensorSpec

MEMBERS = re.compile(
    r"archive/(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|"
    r"model_constants_config\.json)|data/sample_inputs/model\.pt|models/model\.json|archive_format|archive_version|"
    r"byteorder|\.data/(version|serialization_id))"
)
PROGRAM = "archive/models/model.json"
EXAMPLES = "archive/data/sample_inputs/model.pt"
TENSOR_FILES = re.compile(r"(weight|tensor)_\d+")
EXPRESSION = re.compile(
    r"(Symbol\('s\d+', positive=True, integer=True\)|Integer\(-?\d+\)|(Add|Mul|FloorDiv)\(|\)|, |s\d+|-?\d+)+"
)
"""Sums and products of numbers and the batch size; torch evaluates these."""
CONTAINERS = re.compile(r'"type": (?!null|"builtins\.(tuple|list|dict)")')

_NAMES = """_assert_tensor_metadata.default add.Tensor addcmul.default alias.default arange.default arange.start_step
bitwise_not.default cat.default chunk.default conv1d.default conv2d.default cos.default div.Tensor flatten.using_ints
ge.Tensor gelu.default glu.default index_put_.default layer_norm.default lift_fresh_copy.default linear.default
log_softmax.int masked_fill.Scalar matmul.default mul.Tensor neg.default permute.default pow.Scalar relu.default
remainder.Scalar rsub.Scalar silu.default sin.default slice.Tensor softmax.int split_with_sizes.default squeeze.dim
sub.Tensor sym_size.int to.dtype transpose.int unflatten.int unsqueeze.default zeros.default"""
OPERATORS = {f"torch.ops.aten.{name}" for name in _NAMES.split()}
"""Operators of a student's step; none reads a file or runs code."""
VALUES = re.compile("as_(bool|device|expr|floats?|ints?|layout|name|none|scalar_type|sym_ints?|tensors?)")
"""Allowed kinds of arguments; subgraphs and custom objects are excluded."""
EMPTY = ("metadata", "guards_code", "custom_obj_values", "treespec_namedtuple_fields")


class UnsafeArchiveError(Exception):
    """The archive is damaged, or holds something that our exporter does not write."""


def checked_archive(content: bytes) -> bytes:
    """Return a new archive of the same tensors and graph.

    Raises:
        UnsafeArchiveError: states what was found.
    """
    try:
        members = _members(content)
        plain = {name: json.loads(text) for name, text in members.items() if name.endswith(".json")}
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, RecursionError, NotImplementedError) as error:
        raise UnsafeArchiveError(f"is not such an archive ({error})") from error
    if members.get(EXAMPLES):
        raise UnsafeArchiveError("holds example inputs, which are pickled")
    if PROGRAM not in plain:
        raise UnsafeArchiveError(f"holds no {PROGRAM}")
    for data in plain.values():
        for key, value in _entries(data):
            problem = _problem(key, value)
            if problem:
                raise UnsafeArchiveError(problem)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), json.dumps(plain[name]) if name in plain else data)
    return written.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for item in archive.infolist():
            if not MEMBERS.fullmatch(item.filename) or item.filename in members:
                raise UnsafeArchiveError(f"holds {item.filename[:80]!r}, which does not belong there")
            if item.compress_type != zipfile.ZIP_STORED or item.file_size > len(content):
                raise UnsafeArchiveError(f"{item.filename} is packed")
            members[item.filename] = archive.read(item)
    return members


def _entries(data: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of every mapping with its value."""
    waiting = [data]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield from item.items()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _problem(key: str, value: Any) -> str | None:
    """Why our exporter does not write an entry; None if it does."""
    wrong = (
        (key == "target" and value not in OPERATORS)
        or (key == "use_pickle" and value is not False)
        or (key == "path_name" and not TENSOR_FILES.fullmatch(str(value)))
        or (key == "expr_str" and not EXPRESSION.fullmatch(str(value)))
        or (key in ("in_spec", "out_spec") and bool(CONTAINERS.search(str(value)) or "__" in str(value)))
        or (key in EMPTY and bool(value))
        or (key.startswith("as_") and not VALUES.fullmatch(key))
    )
    return f"{key} is {str(value)[:80]!r}, which our exporter does not write" if wrong else None


class _GraphBackend:
    """What the runtimes share: states as arrays in the order of the wire format; utterances run chunk by chunk."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._specs = bundle, bundle.wire.states()

    @property
    def context(self) -> Context:
        """Chunk, left and right context."""
        return self._bundle.context

    def log_probs(self: Any, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """Log-probabilities [B, T', V] with lengths [B] of features [B, T, 80]."""
        return run_chunks(self, features, feature_lens)

    def initial_state(self, streams: int) -> list[np.ndarray]:
        return [spec.zeros(streams) for spec in self._specs]

    def join(self, states: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
        columns = zip(self._specs, zip(*states, strict=True), strict=True)
        return [np.concatenate(arrays, axis=spec.batch_axis) for spec, arrays in columns]

    def split(self, state: list[np.ndarray]) -> list[list[np.ndarray]]:
        streams = len(state[-1])
        columns = [np.split(array, streams, spec.batch_axis) for spec, array in zip(self._specs, state, strict=True)]
        return [[array.copy() for array in arrays] for arrays in zip(*columns, strict=True)]


class Pt2Backend(_GraphBackend):
    """Runs a bundle's model.pt2 on the CPU.

    Raises:
        BundleError: it holds what our exporter does not write, cannot be loaded, or is not in the wire format.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        try:
            program = torch.export.load(io.BytesIO(checked_archive(bundle.graph_bytes)))
            self._module = program.module(check_guards=False)
            features, *state = (spec.zeros(2) for spec in bundle.wire.inputs())
            log_probs, found = self.step(torch.from_numpy(features), state)
            expected = [spec.zeros(2) for spec in bundle.wire.outputs()]
            if [(one.shape, one.dtype) for one in (log_probs.numpy(), *found)] != [
                (x.shape, x.dtype) for x in expected
            ]:
                raise UnsafeArchiveError("its outputs are not those of the wire format")
        except UnsafeArchiveError as error:
            raise bundle.error(str(error)) from error
        except Exception as error:  # torch's errors about a program share no narrower base class
            raise bundle.error(f"torch cannot run it: {' '.join(str(error).split())[:300]}") from error

    @torch.no_grad()
    def step(self, features: Tensor, state: list[np.ndarray]) -> tuple[Tensor, list[np.ndarray]]:
        log_probs, *after = self._module(features, *map(torch.from_numpy, state))
        return log_probs, [tensor.numpy() for tensor in after]


ELEMENT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class OnnxBackend(_GraphBackend):
    """Runs a bundle's ONNX graph in onnxruntime; one stream gains little from more threads.

    Raises:
        BundleError: the graph cannot be loaded, or its metadata, inputs or outputs are not those of the wire format.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, bundle: Bundle, num_threads: int = 1) -> None:
        super().__init__(bundle)
        self._session = _load(bundle, num_threads)
        _check_metadata(bundle, self._session.get_modelmeta().custom_metadata_map)
        _check_tensors(bundle, self._session.get_inputs(), bundle.wire.inputs(), "input")
        _check_tensors(bundle, self._session.get_outputs(), bundle.wire.outputs(), "output")
        self._input_names = [value.name for value in self._session.get_inputs()]
        self._output_names = [value.name for value in self._session.get_outputs()]

    def step(self, features: Tensor, state: list[np.ndarray]) -> tuple[Tensor, list[np.ndarray]]:
        inputs = [features.contiguous().numpy(), *state]
        log_probs, *state = self._session.run(self._output_names, dict(zip(self._input_names, inputs, strict=True)))
        return torch.from_numpy(log_probs), state


def _load(bundle: Bundle, num_threads: int) -> Any:
    onnxruntime = import_extra("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are about graph clean-up
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # A graph may name further files for its weights, which are not hashed; below the path of a file there are none.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(bundle.folder.absolute() / bundle.graph)
    )
    try:
        return onnxruntime.InferenceSession(bundle.graph_bytes, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        raise bundle.error(f"onnxruntime cannot load it: {' '.join(str(error).split())[:300]}") from error


def _check_metadata(bundle: Bundle, found: dict[str, str]) -> None:
    wrong = [
        f"{key} is {found[key]!r} instead of {value!r}" if key in found else f"{key} is missing"
        for key, value in bundle.wire.metadata().items()
        if found.get(key) != value
    ]
    if wrong:
        raise bundle.error(
            f"its metadata does not fit: {'; '.join(wrong)}",
            expected="the zipformer2_ctc metadata of the model in bundle.json",
            remedy="Clients end their process on such a file: export the model again",
        )


def _check_tensors(bundle: Bundle, found: list[Any], expected: list[TensorSpec], kind: str) -> None:
    if len(found) != len(expected):
        raise bundle.error(f"{len(found)} {kind}s", expected=str(len(expected)))
    for position, (value, spec) in enumerate(zip(found, expected, strict=True)):
        if value.type != ELEMENT_TYPES[spec.dtype] or not _fits(value.shape, spec.shape):
            raise bundle.error(
                f"{kind} {position} ({value.name}) is {value.type} {value.shape}",
                expected=f"{ELEMENT_TYPES[spec.dtype]} {list(spec.shape)} ({spec.name})",
            )


def _fits(found: list[Any], expected: tuple[int | str, ...]) -> bool:
    """Whether fixed sizes are equal and the batch is open, under any name."""
    return len(found) == len(expected) and all(
        not isinstance(size, int) if wanted == BATCH else size == wanted
        for size, wanted in zip(found, expected, strict=True)
    )
