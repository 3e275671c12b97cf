"""Export a streaming model to torch's exchange format (`torch.export`), in the wire format of the ONNX file.

The file holds raw tensors and a graph as JSON: no example inputs, which are pickled, and none of the exporter's notes,
which hold paths of this machine. `runtime.pt2_backend` refuses everything else.
"""

import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from asr_kd.export.sherpa import SherpaWire
from asr_kd.runtime.wire import BATCH, WireFormat

EXAMPLE_STREAMS = 2
"""With one stream the exporter fixes the batch to one."""
LONGEST_BATCH = 4_096


def write_pt2(module: SherpaWire, wire: WireFormat, path: Path) -> None:
    """Export one streaming step.

    Args:
        module: the model in the wire format.
        wire: its shapes.
        path: where to write; the caller makes the writing atomic.
    """
    specs = wire.inputs()
    examples = tuple(torch.from_numpy(spec.zeros(EXAMPLE_STREAMS)) for spec in specs)
    batch = torch.export.Dim(BATCH, min=1, max=LONGEST_BATCH)
    shapes = ({specs[0].batch_axis: batch}, tuple({spec.batch_axis: batch} for spec in specs[1:]))
    buffer = io.BytesIO()
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.export.export(module.eval(), examples, dynamic_shapes=shapes)
        program.example_inputs = None
        torch.export.save(program, buffer)
    path.write_bytes(_without_notes(buffer.getvalue()))


def _without_notes(archive: bytes) -> bytes:
    """The same archive without nodes' metadata and without guards, which are code."""
    cleaned = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(cleaned, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if "/models/" in item.filename:
                content = json.dumps(_clean(json.loads(content)) | {"guards_code": []}).encode()
            target.writestr(zipfile.ZipInfo(item.filename), content)
    return cleaned.getvalue()


def _clean(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: {} if key == "metadata" and isinstance(item, dict) else _clean(item) for key, item in value.items()}
