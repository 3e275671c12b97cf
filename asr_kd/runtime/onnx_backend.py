"""A bundle's graph in onnxruntime: validated, then run one chunk at a time. The only file that imports onnxruntime.

Shapes: B utterances, N streams, T feature frames, C chunk frames, V vocabulary.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asr_kd.errors import BundleError, MissingExtraError
from asr_kd.models.conformer import EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.runtime.backend import run_chunks
from asr_kd.runtime.bundle import COPY_AGAIN, Bundle
from asr_kd.runtime.wire import BATCH, TensorSpec

ELEMENT_TYPES = {"float32": "tensor(float)", "int64": "tensor(int64)"}


class _Unbound(list[np.ndarray]):
    """The arrays of streams that are new: with their first step they are bound."""


class _Bound(list[np.ndarray]):
    """The arrays of streams that go on by themselves; the step after the next one writes over them."""

    def __init__(self, arrays: list[np.ndarray], buffers: "_Buffers") -> None:
        super().__init__(arrays)
        self.buffers, self.turn = buffers, buffers.turn


class OnnxBackend:
    """Runs a bundle.

    Streams that stay by themselves keep their caches in two sets of arrays, bound to the session once; steps read one
    and write the other: 5 to 15 % less time than with new arrays in every step. The price is that a state is used up
    by its step. What `join` and `split` give are plain arrays, which no step changes.

    Args:
        bundle: as `read_bundle` gives it.
        num_threads: threads of a step; one stream gains little from more.

    Raises:
        BundleError: the graph cannot be loaded, or its metadata, inputs or outputs are not those of the contract.
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
        # What comes out as it went in is not asked for, and not copied: 2 to 7 % of a step.
        first, *states = [value.name for value in self._session.get_outputs()]
        new = [name for name, spec in zip(states, self._specs, strict=True) if not spec.passes_through]
        self._output_names = [first, *new]

    @property
    def context(self) -> Context:
        """Chunk and left context."""
        return self._bundle.context

    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """Whole utterances, chunk by chunk and side by side."""
        return run_chunks(self, features, feature_lens)

    def initial_state(self, streams: int) -> list[np.ndarray]:
        """No history: zeros."""
        return _Unbound(spec.zeros(streams) for spec in self._specs)

    def step(self, features: Tensor, state: list[np.ndarray]) -> tuple[Tensor, list[np.ndarray]]:
        """One chunk, [N, 4C + 3, 80] → log-probabilities [N, C, V] and the new caches in the contract's order.

        Raises:
            ValueError: another step has begun at this state.
        """
        inputs = [features.contiguous().numpy(), *state]
        if isinstance(state, _Bound):
            if state.turn != state.buffers.turn:
                raise ValueError("this state is used up: a step has begun at it")
            return state.buffers.step(inputs[0])
        if isinstance(state, _Unbound):
            return self._bind(inputs).step(inputs[0])
        found = iter(self._session.run(self._output_names, dict(zip(self._input_names, inputs, strict=True))))
        log_probs = torch.from_numpy(next(found))
        return log_probs, [array if spec.passes_through else next(found) for spec, array in self._states(state)]

    def _states(self, state: list[np.ndarray]) -> Iterator[tuple[TensorSpec, np.ndarray]]:
        return zip(self._specs, state, strict=True)

    def _bind(self, inputs: list[np.ndarray]) -> "_Buffers":
        """Buffers that begin with copies of the arrays."""
        features, *state = (array.copy() for array in inputs)
        other = [array if spec.passes_through else array.copy() for spec, array in self._states(state)]
        window, tokens = self._bundle.context.chunk_frames, self._bundle.info.vocabulary.size
        log_probs = np.zeros((len(features), window, tokens), dtype=np.float32)
        bindings = []
        for before, after in ((state, other), (other, state)):
            binding = self._session.io_binding()
            for name, array in zip(self._input_names, [features, *before], strict=True):
                binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            new = [array for spec, array in self._states(after) if not spec.passes_through]
            for name, array in zip(self._output_names, [log_probs, *new], strict=True):
                binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            bindings.append(binding)
        return _Buffers(self._session, features, (state, other), log_probs, bindings)

    def join(self, states: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
        """States of several streams, at any positions, as one batch."""
        columns = zip(self._specs, zip(*states, strict=True), strict=True)
        return [np.concatenate(arrays, axis=spec.batch_axis) for spec, arrays in columns]

    def split(self, state: list[np.ndarray]) -> list[list[np.ndarray]]:
        """The state of each stream of a batch: copies, so that one which stays behind does not keep the batch alive."""
        streams = len(state[-1])
        columns = [np.split(array, streams, spec.batch_axis) for spec, array in zip(self._specs, state, strict=True)]
        return [[array.copy() for array in arrays] for arrays in zip(*columns, strict=True)]


class _Buffers:
    """Arrays and their bindings: by turns one set of caches is read and the other written."""

    def __init__(
        self,
        session: Any,
        features: np.ndarray,
        states: tuple[list[np.ndarray], list[np.ndarray]],
        log_probs: np.ndarray,
        bindings: list[Any],
    ) -> None:
        self._session, self._features, self._states = session, features, states
        self._log_probs, self._bindings = log_probs, bindings
        self.turn = 0

    def step(self, features: np.ndarray) -> tuple[Tensor, _Bound]:
        """One chunk, [N, 4C + 3, 80] → log-probabilities [N, C, V] and the state after it."""
        if features.shape != self._features.shape:
            raise ValueError(f"features {features.shape}; expected {self._features.shape}")
        self._features[:] = features
        self._session.run_with_iobinding(self._bindings[self.turn % 2])
        self.turn += 1
        return torch.from_numpy(self._log_probs.copy()), _Bound(self._states[self.turn % 2], self)


def _load(bundle: Bundle, num_threads: int) -> Any:
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings are about graph clean-up, not about us
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # A graph may name further files for its weights, unhashed and relative to wherever we run: below a file
    # there is none.
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
    """Fixed sizes equal; the batch open, whatever its name."""
    return len(found) == len(expected) and all(
        not isinstance(size, int) if wanted == BATCH else size == wanted
        for size, wanted in zip(found, expected, strict=True)
    )
