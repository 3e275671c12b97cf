"""8-bit weights: onnxruntime's dynamic quantisation of MatMul and Gemm.

Weights get one scale per output; activations are scaled by their range in every step. Convolutions stay float32:
as integers they are slower on a CPU.

Streams that share a step share that range, so a stream's log-probabilities depend on its neighbours, by about as much
as 8-bit weights change them at all. A range per row avoids this and costs the time that 8-bit weights save.
"""

import contextlib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_kd.errors import MissingExtraError

QUANTISED = ("MatMul", "Gemm")


def write_int8(source: Path, path: Path) -> None:
    """Quantise an ONNX file; its metadata, inputs and outputs are unchanged.

    Args:
        source: a float32 graph.
        path: where to write; the caller makes the writing atomic.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
    """
    try:
        quantization: Any = importlib.import_module("onnxruntime.quantization")
    except ImportError as error:
        raise MissingExtraError("onnxruntime and onnx", "export") from error
    with _quiet():
        quantization.quantize_dynamic(
            source,
            path,
            op_types_to_quantize=list(QUANTISED),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence its advice to infer shapes first, which our graphs do not need."""
    logger = logging.getLogger()
    disabled = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
