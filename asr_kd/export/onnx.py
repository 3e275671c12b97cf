"""A streaming model to an ONNX file with the client's metadata. The only file that imports onnx.

With torch 2.14: the legacy exporter drops inputs that a model does not use, which the client needs, and its graphs
are slower.
"""

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_kd.errors import MissingExtraError
from asr_kd.export.sherpa import SherpaWire
from asr_kd.runtime.wire import BATCH, TensorSpec, WireFormat

OPSET = 18
EXAMPLE_STREAMS = 2
"""With one stream the exporter would bake a batch of one into the graph."""


def write_onnx(module: SherpaWire, wire: WireFormat, path: Path, extra_metadata: dict[str, str]) -> None:
    """Export one streaming step.

    Args:
        module: the model in the wire format.
        wire: its shapes.
        path: where to write; the caller makes the writing atomic.
        extra_metadata: further keys, which the client ignores.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    onnx: Any = _require("onnx")
    _require("onnxscript")
    specs = wire.inputs()
    batch = torch.export.Dim(BATCH)
    states = tuple({spec.batch_axis: batch} for spec in specs[1:])
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program: Any = torch.onnx.export(
            module.eval(),
            tuple(_example(spec) for spec in specs),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[spec.name for spec in specs],
            output_names=[spec.name for spec in wire.outputs()],
            dynamic_shapes=({specs[0].batch_axis: batch}, states),
            verbose=False,
        )
    proto = program.model_proto
    _strip(proto.graph)
    onnx.helper.set_model_props(proto, {**extra_metadata, **wire.metadata()})
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _strip(graph: Any) -> None:
    """Remove the exporter's notes, which hold paths of this machine and source lines, and inner shapes.

    Runtimes infer the shapes, and quantisation fails on those of matrices that it transposes.
    """
    del graph.value_info[:]
    noted = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for item in noted:
        del item.metadata_props[:]
        item.doc_string = ""


def _example(spec: TensorSpec) -> Tensor:
    return torch.from_numpy(spec.zeros(EXAMPLE_STREAMS))


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(package, "export") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress on stdout and its warnings; failures raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
