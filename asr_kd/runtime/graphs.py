"""A validated bundle as a backend: whichever form of its model was asked for."""

from asr_kd.runtime.bundle import PT2, Bundle
from asr_kd.runtime.onnx_backend import OnnxBackend
from asr_kd.runtime.pt2_backend import Pt2Backend


def open_backend(bundle: Bundle, num_threads: int = 1) -> OnnxBackend | Pt2Backend:
    """Load the graph of a bundle.

    Args:
        bundle: as `read_bundle` gives it.
        num_threads: threads of a step in onnxruntime; torch has its own setting.

    Raises:
        BundleError: the graph cannot be loaded, or is not that of the contract.
        MissingExtraError: onnxruntime is needed and not installed.
    """
    return Pt2Backend(bundle) if bundle.graph == PT2 else OnnxBackend(bundle, num_threads)
