"""Run the real sherpa-onnx client on a bundle's files, in its own process.

The client ends its whole process on some damage, so it never runs in ours. Only this file imports sherpa_onnx. As a
script it reads a request (JSON) on stdin and writes the result on the last line of stdout.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SAMPLE_RATE = 16_000
STARTUP_SECONDS = 120


class ClientResult(NamedTuple):
    """The client's result of one utterance."""

    text: str
    symbols: list[str]
    """Symbols of the tokens in the client's output, with a space for a leading U+2581."""
    seconds: list[float]
    """When each token was emitted."""


class ClientFailure(Exception):
    """The client's process ended without a result."""


def client_is_installed() -> bool:
    """Whether sherpa_onnx can be imported; it is not imported here."""
    return importlib.util.find_spec("sherpa_onnx") is not None


def run_client(
    model: Path,
    tokens: Path,
    waveforms: Sequence[np.ndarray],
    packet_samples: int = 3_200,
    before: Sequence[np.ndarray] = (),
    graph: Path | None = None,
) -> list[ClientResult]:
    """Decode waveforms [S], float32 at 16 kHz with the silence that the client needs, all streams at once.

    Streams start one packet after another, so that the client batches streams at different positions. Each decodes its
    part of `before` first, if there is any, and is reset. Without a decoding `graph` of `asr-kd lm graph` the search is
    greedy.

    Raises:
        ClientFailure: the process died or took far too long; what it printed is in the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = {
            "model": str(model),
            "tokens": str(tokens),
            "waveforms": _saved(Path(folder), "waveform", waveforms),
            "before": _saved(Path(folder), "before", before),
            "packet_samples": packet_samples,
            "graph": str(graph or ""),
        }
        seconds = sum(len(waveform) for waveform in (*waveforms, *before)) / SAMPLE_RATE
        try:
            # -P: otherwise the onnx.py in this folder would be imported as the package.
            done = subprocess.run(
                [sys.executable, "-P", __file__],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=STARTUP_SECONDS + 4 * seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClientFailure(f"no result after {error.timeout:.0f} s") from error
    if done.returncode != 0:
        raise ClientFailure(f"exit status {done.returncode}: {' '.join(done.stderr.split())[-400:]}")
    return [ClientResult(*item) for item in json.loads(done.stdout.splitlines()[-1])]


def _saved(folder: Path, name: str, waveforms: Sequence[np.ndarray]) -> list[str]:
    paths = [str(folder / f"{name}-{index}.npy") for index in range(len(waveforms))]
    for path, waveform in zip(paths, waveforms, strict=True):
        np.save(path, np.ascontiguousarray(waveform, dtype=np.float32))
    return paths


def _decode(request: dict[str, Any]) -> list[tuple[str, list[str], list[float]]]:
    """In the client's process: the whole request."""
    import sherpa_onnx

    recognizer = sherpa_onnx.OnlineRecognizer.from_zipformer2_ctc(
        tokens=request["tokens"], model=request["model"], num_threads=1, ctc_graph=request["graph"]
    )
    waveforms = [np.load(path, allow_pickle=False) for path in request["waveforms"]]
    streams = [recognizer.create_stream() for _ in waveforms]
    for stream, path in zip(streams, request["before"], strict=False):
        stream.accept_waveform(SAMPLE_RATE, np.load(path, allow_pickle=False))
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
        recognizer.reset(stream)
    packet, position = request["packet_samples"], 0
    pending = set(range(len(streams)))
    while pending:
        for index in sorted(pending):
            start = position - index * packet
            if start >= 0:
                streams[index].accept_waveform(SAMPLE_RATE, waveforms[index][start : start + packet])
            if start + packet >= len(waveforms[index]):
                streams[index].input_finished()
                pending.remove(index)
        position += packet
        while ready := [stream for stream in streams if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
    return [(recognizer.get_result(s), recognizer.tokens(s), recognizer.timestamps(s)) for s in streams]


if __name__ == "__main__":
    print(json.dumps(_decode(json.load(sys.stdin))))
