"""Graphs of a streaming model: in the wire format of sherpa-onnx's zipformer2_ctc, as ONNX and as torch.export files.

With torch 2.14, onnx's legacy exporter drops inputs that a model does not use, which the client needs, and its graphs
are slower. The pt2 file holds raw tensors and a graph as JSON: no example inputs, which are pickled, and none of the
exporter's notes, which hold paths of this machine; `runtime.graph_backends` refuses everything else. Only this file
imports onnx.

Shapes: N streams, L left-context frames, C chunk frames, R right-context frames, D width, K convolution
kernel, V vocabulary."""

import contextlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from asr_kd.errors import import_extra
from asr_kd.models.acoustic_model import ModelLayer, StreamState
from asr_kd.models.weights import Model
from asr_kd.runtime.backend import mask_tokens
from asr_kd.runtime.wire import BATCH, WireFormat

CACHES_PER_LAYER = 6


class SherpaWire(nn.Module):
    """One streaming step in the wire format's order; the client must never choose `unprintable` token ids."""

    def __init__(self, model: Model, unprintable: Sequence[int] = ()) -> None:
        super().__init__()
        self.model, self.unprintable = deepcopy(model).eval().requires_grad_(False), list(unprintable)
        for layer in self.model.layers:
            cast(ModelLayer, layer).fuse()

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """[N, 4 (C + R) + 3, 80] and the states → log-probabilities [N, C, V] and the new states, in the same order."""
        *caches, embed_states, processed_lens = states
        layers = [caches[start : start + CACHES_PER_LAYER] for start in range(0, len(caches), CACHES_PER_LAYER)]
        # The halves of the wire format are joined to our caches; nonlin_attn belongs to another model and is ignored.
        state = StreamState(
            keys=[key for key, *_ in layers],
            values=[torch.cat([val1, val2], dim=-1) for _, _, val1, val2, _, _ in layers],
            convs=[torch.cat([older, newer], dim=-1) for *_, older, newer in layers],
            processed=processed_lens,
        )
        log_probs, after = self.model.stream_step(x, state)
        new_layers = [
            (key, nonlin_attn, *value.chunk(2, dim=-1), *conv.chunk(2, dim=-1))
            for key, value, conv, (_, nonlin_attn, *_) in zip(
                after.keys, after.values, after.convs, layers, strict=True
            )
        ]
        new_caches = [cache for layer in new_layers for cache in layer]
        return mask_tokens(log_probs, self.unprintable), *new_caches, embed_states, after.processed


OPSET = 18
EXAMPLE_STREAMS = 2
"""With one stream the exporter would bake a batch of one into the graph."""


def write_onnx(module: SherpaWire, wire: WireFormat, path: Path, extra_metadata: dict[str, str]) -> None:
    """Export one streaming step, with further metadata, which the client ignores; the caller makes the writing atomic.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    onnx = import_extra("onnx", "export")
    import_extra("onnxscript", "export")
    examples, shapes = _example_batch(wire, torch.export.Dim(BATCH))
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program: Any = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[spec.name for spec in wire.inputs()],
            output_names=[spec.name for spec in wire.outputs()],
            dynamic_shapes=shapes,
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


def _example_batch(wire: WireFormat, batch: Any) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Inputs of two streams, and which of their dimensions is the open `batch`."""
    specs = wire.inputs()
    first, *states = ({spec.batch_axis: batch} for spec in specs)
    return tuple(torch.from_numpy(spec.zeros(EXAMPLE_STREAMS)) for spec in specs), (first, tuple(states))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters' progress on stdout, their warnings and their advice; failures raise."""
    disabled = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(disabled)


QUANTISED = ("MatMul", "Gemm")


def write_int8(source: Path, path: Path) -> None:
    """Quantise a float32 ONNX file; its metadata, inputs and outputs are unchanged.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    quantization = import_extra("onnxruntime.quantization", "export", "onnxruntime and onnx")
    with _quiet():
        quantization.quantize_dynamic(
            source,
            path,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


LONGEST_BATCH = 4_096


def write_pt2(module: SherpaWire, wire: WireFormat, path: Path) -> None:
    """Export one streaming step as a torch.export file; the caller makes the writing atomic."""
    examples, shapes = _example_batch(wire, torch.export.Dim(BATCH, min=1, max=LONGEST_BATCH))
    buffer = io.BytesIO()
    with torch.inference_mode(False), torch.no_grad(), _quiet():
        program: Any = torch.export.export(module.eval(), examples, dynamic_shapes=shapes)
        program.example_inputs = None
        torch.export.save(program, buffer)
    path.write_bytes(_without_pt2_notes(buffer.getvalue()))


def _without_pt2_notes(archive: bytes) -> bytes:
    """The same archive without nodes' metadata and without guards, which are code."""
    cleaned = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(cleaned, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if "/models/" in item.filename:
                content = json.dumps(json.loads(content, object_hook=_without_metadata) | {"guards_code": []}).encode()
            target.writestr(zipfile.ZipInfo(item.filename), content)
    return cleaned.getvalue()


def _without_metadata(node: dict[str, Any]) -> dict[str, Any]:
    return node | {"metadata": {}} if isinstance(node.get("metadata"), dict) else node
