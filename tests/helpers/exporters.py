"""A stand-in for the tracing of a graph, which takes seconds: the graph of a bundle that was exported before."""

import shutil
from collections.abc import Callable
from pathlib import Path

from asr_kd.runtime.bundle import MODEL


def exporter_that_copies(bundle: Path) -> Callable[..., None]:
    """Return a function in the place of `export_bundle.write_onnx`."""

    def write_onnx(module: object, wire: object, path: Path, extra_metadata: dict[str, str]) -> None:
        shutil.copy(bundle / MODEL, path)

    return write_onnx
