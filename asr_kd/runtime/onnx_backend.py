"""Run a bundle's graph in onnxruntime, after validating it. Only this file imports onnxruntime to run graphs.

Shapes: B utterances, N streams, T feature frames, C chunk frames, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import BundleError, import_extra
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.runtime.backend import run_chunks
from asr_kd.runtime.bundle import COPY_AGAIN, Bundle
from asr_kd.runtime.wire import BATCH, TensorSpec

ELEMENT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class OnnxBackend:
    """Runs a bundle's ONNX graph in onnxruntime; one stream gains little from more threads.

    Raises:
        BundleError: the graph cannot be loaded, or its metadata, inputs or outputs are not those of the wire format.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, bundle: Bundle, num_threads: int = 1) -> None:
        self._bundle = bundle
        self._specs = bundle.wire.states()
        self._session = _load(bundle, num_threads)
        _check_metadata(bundle, self._session.get_modelmeta().custom_metadata_map)
        _check_tensors(bundle, self._session.get_inputs(), bundle.wire.inputs(), "input")
        _check_tensors(bundle, self._session.get_outputs(), bundle.wire.outputs(), "output")
        self._input_names = [value.name for value in self._session.get_inputs()]
        self._output_names = [value.name for value in self._session.get_outputs()]

    @property
    def context(self) -> Context:
        return self._bundle.context

    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        return run_chunks(self, features, feature_lens)

    def initial_state(self, streams: int) -> list[np.ndarray]:
        return [spec.zeros(streams) for spec in self._specs]

    def step(self, features: Tensor, state: list[np.ndarray]) -> tuple[Tensor, list[np.ndarray]]:
        inputs = [features.contiguous().numpy(), *state]
        log_probs, *state = self._session.run(self._output_names, dict(zip(self._input_names, inputs, strict=True)))
        return torch.from_numpy(log_probs), state

    def join(self, states: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
        columns = zip(self._specs, zip(*states, strict=True), strict=True)
        return [np.concatenate(arrays, axis=spec.batch_axis) for spec, arrays in columns]

    def split(self, state: list[np.ndarray]) -> list[list[np.ndarray]]:
        streams = len(state[-1])
        columns = [np.split(array, streams, spec.batch_axis) for spec, array in zip(self._specs, state, strict=True)]
        return [[array.copy() for array in arrays] for arrays in zip(*columns, strict=True)]


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
        raise BundleError(
            f"onnxruntime cannot load it: {' '.join(str(error).split())[:300]}",
            where=bundle.folder / bundle.graph,
            remedy=COPY_AGAIN,
        ) from error


def _check_metadata(bundle: Bundle, found: dict[str, str]) -> None:
    wrong = {
        key: f"{key} is {found[key]!r} instead of {value!r}" if key in found else f"{key} is missing"
        for key, value in bundle.wire.metadata().items()
        if found.get(key) != value
    }
    if wrong:
        raise BundleError(
            f"its metadata does not fit: {'; '.join(wrong.values())}",
            where=bundle.folder / bundle.graph,
            expected="the zipformer2_ctc metadata of the model in bundle.json",
            remedy="Clients end their process on such a file: export the model again",
        )


def _check_tensors(bundle: Bundle, found: list[Any], expected: list[TensorSpec], kind: str) -> None:
    if len(found) != len(expected):
        raise BundleError(f"{len(found)} {kind}s", expected=str(len(expected)), where=bundle.folder / bundle.graph)
    for position, (value, spec) in enumerate(zip(found, expected, strict=True)):
        if value.type != ELEMENT_TYPES[spec.dtype] or not _fits(value.shape, spec.shape):
            raise BundleError(
                f"{kind} {position} ({value.name}) is {value.type} {value.shape}",
                expected=f"{ELEMENT_TYPES[spec.dtype]} {list(spec.shape)} ({spec.name})",
                where=bundle.folder / bundle.graph,
                remedy=COPY_AGAIN,
            )


def _fits(found: list[Any], expected: tuple[int | str, ...]) -> bool:
    """Whether fixed sizes are equal and the batch is open, under any name."""
    return len(found) == len(expected) and all(
        not isinstance(size, int) if wanted == BATCH else size == wanted
        for size, wanted in zip(found, expected, strict=True)
    )
