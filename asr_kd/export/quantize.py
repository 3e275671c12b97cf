"""A graph's matrices as 8-bit integers: onnxruntime's dynamic quantisation of MatMul and Gemm, nothing else.

Weights get one scale for each output; what flows through is scaled by its own range, in every step anew. Convolutions
stay float32: as integers they are slower on a CPU (measured with onnxruntime 1.28 and 1.31).
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
    """Quantise an ONNX file; its metadata, inputs and outputs stay as they are.

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
    """Its advice to pre-process a graph first is about shapes, which ours needs none of."""
    logger = logging.getLogger()
    disabled = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
