"""A graph's matrices as 8-bit integers: onnxruntime's dynamic quantisation of MatMul and Gemm, nothing else.

Weights get one scale for each output; what flows through is scaled by its own range, in every step anew. Convolutions
stay float32: as integers they are slower on a CPU (measured with onnxruntime 1.28 and 1.31).

Streams that share a step share that range, so a stream's numbers depend on its neighbours. On AN4, 16 streams a step:
by 0.09 nats in the median frame and 0.4 at most, about what 8-bit weights cost alone (0.07 and 0.35); the best token
changes in 0.2 % of frames, 16 of 345 transcripts differ somewhere, and word error rates are 19.0 % alone, 18.8 % in
batches and 18.9 % in float32. With a range for each row (`QuantizeLinear` by row, `MatMulInteger`) batches are exactly
equal, but a step of one stream of a 5m model takes a fifth longer, a sixth with onnxruntime's own operators: all that
8-bit weights gain. (Where scales by row meet the weights' scales first, onnxruntime 1.31 fuses them as if there were
one scale only: wrong by nats.)
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
