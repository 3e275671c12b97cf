"""Many streams in one step of the model, each at its own position: what a server does.

Rows of a batch do not influence one another, so a stream gives the text that it gives alone. (Where a graph is
quantised dynamically, as int8 bundles are, activations of one step share their scale, and log-probabilities depend on
the neighbours, by about what 8-bit weights cost at all: `export.quantize` has the figures. Single steps would be exact
and take three times as long, 16 streams of a 5m model. The sherpa-onnx client batches the same way.)
"""

from collections.abc import Sequence

import torch

from asr_kd.errors import CheckpointError
from asr_kd.runtime.streaming import StreamingRecognizer


def step_together(streams: Sequence[StreamingRecognizer]) -> dict[int, CheckpointError]:
    """Decode the next chunk of every stream: one step of the model.

    Args:
        streams: of one model, all of them ready (`StreamingRecognizer.is_ready`).

    Returns:
        By place in `streams`, the trouble of those whose log-probabilities are not numbers; the others have gone on.

    Raises:
        ValueError: streams of several models.
    """
    if not streams:
        return {}
    backend = streams[0].backend
    if any(stream.backend is not backend for stream in streams):
        raise ValueError("streams of several models cannot share a step")
    features, states = zip(*(stream.window() for stream in streams), strict=True)
    joined = backend.join(states) if len(states) > 1 else states[0]
    log_probs, after = backend.step(torch.stack(features), joined)
    failed = {}
    parts = backend.split(after) if len(states) > 1 else [after]
    for place, (stream, rows, state) in enumerate(zip(streams, log_probs, parts, strict=True)):
        try:
            stream.take(rows, state)
        except CheckpointError as error:
            failed[place] = error
    return failed


def decode_together(streams: Sequence[StreamingRecognizer], most_streams: int = 64) -> None:
    """Decode all that waits in the streams, chunk by chunk and side by side.

    Args:
        streams: of one model; those without a complete chunk are left alone.
        most_streams: in one step.

    Raises:
        CheckpointError: the model gives log-probabilities that are not numbers.
    """
    while ready := [stream for stream in streams if stream.is_ready]:
        for start in range(0, len(ready), most_streams):
            for error in step_together(ready[start : start + most_streams]).values():
                raise error
