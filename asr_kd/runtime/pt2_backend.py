"""Run a bundle's model.pt2 in torch, after validating it, in the wire format of the ONNX file.

Shapes: B utterances, N streams, T feature frames, C chunk frames, V vocabulary.
"""

import io
from collections.abc import Sequence

import torch
from torch import Tensor

from asr_kd.errors import BundleError
from asr_kd.models.acoustic_model import EncoderOutput
from asr_kd.models.settings import Context
from asr_kd.runtime.backend import run_chunks
from asr_kd.runtime.bundle import COPY_AGAIN, Bundle
from asr_kd.runtime.pt2_archive import UnsafeArchiveError, checked_archive


class Pt2Backend:
    """Runs a bundle's model.pt2 on the CPU.

    Raises:
        BundleError: it holds what our exporter does not write, cannot be loaded, or is not in the wire format.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._specs = bundle.wire.states()
        try:
            program = torch.export.load(io.BytesIO(checked_archive(bundle.graph_bytes)))
            self._step = program.module(check_guards=False)
            self._try()
        except UnsafeArchiveError as error:
            raise self._refused(str(error)) from error
        except Exception as error:  # torch's errors about a program share no narrower base class
            raise self._refused(f"torch cannot run it: {' '.join(str(error).split())[:300]}") from error

    @property
    def context(self) -> Context:
        """Chunk and left context."""
        return self._bundle.context

    def log_probs(self, features: Tensor, feature_lens: Tensor) -> EncoderOutput:
        """Run whole utterances chunk by chunk, side by side."""
        return run_chunks(self, features, feature_lens)

    def initial_state(self, streams: int) -> list[Tensor]:
        """State without history: zeros."""
        return [torch.from_numpy(spec.zeros(streams)) for spec in self._specs]

    @torch.no_grad()
    def step(self, features: Tensor, state: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Run one chunk, [N, 4C + 3, 80] → log-probabilities [N, C, V] and the new caches, in the wire format."""
        log_probs, *state = self._step(features, *state)
        return log_probs, state

    def join(self, states: Sequence[list[Tensor]]) -> list[Tensor]:
        """Join states of several streams, at any positions, into that of a batch."""
        columns = zip(self._specs, zip(*states, strict=True), strict=True)
        return [torch.cat(tensors, dim=spec.batch_axis) for spec, tensors in columns]

    def split(self, state: list[Tensor]) -> list[list[Tensor]]:
        """Split the state of a batch into copies: the inverse of `join`."""
        columns = [tensor.split(1, spec.batch_axis) for spec, tensor in zip(self._specs, state, strict=True)]
        return [[tensor.clone() for tensor in tensors] for tensors in zip(*columns, strict=True)]

    def _try(self) -> None:
        """Verify the shapes and types of one step of two streams."""
        features, *state = (torch.from_numpy(spec.zeros(2)) for spec in self._bundle.wire.inputs())
        with torch.no_grad():
            found = self._step(features, *state)
        expected = [torch.from_numpy(spec.zeros(2)) for spec in self._bundle.wire.outputs()]
        if [(one.shape, one.dtype) for one in found] != [(one.shape, one.dtype) for one in expected]:
            raise UnsafeArchiveError("its outputs are not those of the wire format")

    def _refused(self, why: str) -> BundleError:
        return BundleError(why, where=self._bundle.folder / self._bundle.graph, remedy=COPY_AGAIN)
