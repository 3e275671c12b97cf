"""The page without a server beside our onnxruntime loop: real-time factor, lag of a chunk, time to load.

    python benchmarks/browser_speed.py [--sizes tiny 5m] [--chunk 8]

Run with PYTHONPATH=. from the root of a checkout, with Chromium and onnxruntime-web (`make web`). Both run the same
8-bit graph on noise, one thread each, one after the other; the ratio is of their real-time factors. The lag is from the
packet that completes a chunk to its text, with packets of 100 ms in real time. Untrained weights: speed does not depend
on them.
"""

import argparse
import asyncio
import functools
import http.server
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from export_speed import SAMPLE_RATE, untrained  # benchmarks/ is on the path of its scripts

SECONDS = 20

RUN = """(async () => {
  const began = performance.now(), worker = new Worker('worker.js', { type: 'module' });
  const next = (type) => new Promise((done) => worker.addEventListener('message', function wait({ data }) {
    if (data.type === 'error') done(data);
    if (data.type === type) { worker.removeEventListener('message', wait); done(data); }
  }));
  const lags = [];
  worker.addEventListener('message', ({ data }) => { if (data.type === 'partial') lags.push(data.lag_ms); });
  const samples = Int16Array.from({ length: SECONDS * 16000 }, () => 3000 * (Math.random() - 0.5));
  const start = async () => { const ready = next('ready'); worker.postMessage({ type: 'open' }); return ready; };
  await start();
  const load = performance.now() - began;
  const decode = async (pause) => {
    const done = next('done');
    for (let at = 0; at < samples.length; at += 1600) {
      worker.postMessage({ type: 'samples', samples: samples.slice(at, at + 1600) });
      if (pause) await new Promise((go) => setTimeout(go, pause));
    }
    worker.postMessage({ type: 'end' });
    await done;
  };
  await decode(0);
  await start();
  const from = performance.now();
  await decode(0);
  const factor = (performance.now() - from) / 1000 / SECONDS;
  await start();
  lags.length = 0;
  await decode(100);
  lags.sort((a, b) => a - b);
  return { load, factor, lag: lags[lags.length >> 1], late: lags[Math.floor(0.95 * (lags.length - 1))] };
})()"""


async def in_browser(page: Path) -> dict[str, Any]:
    """Measure in headless Chromium."""
    from tests.helpers.browser import open_tab

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(page)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            async with open_tab(Path(folder), f"http://127.0.0.1:{server.server_port}/") as tab:
                return await tab.value(RUN.replace("SECONDS", str(SECONDS)))
    finally:
        server.shutdown()


def native(graph: Path) -> float:
    """Real-time factor of our loop in onnxruntime."""
    from asr_kd.runtime.recognizer import open_recognizer

    torch.set_num_threads(1)
    recognizer = open_recognizer(graph)
    samples = 0.05 * torch.randn(SECONDS * SAMPLE_RATE)
    for _ in range(2):  # the first warms up
        stream, begin = recognizer.stream(), time.perf_counter()
        for packet in samples.split(1_600):
            stream.accept(packet)
        stream.final()
        seconds = time.perf_counter() - begin
    return seconds / SECONDS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "5m"])
    parser.add_argument("--chunk", type=int, default=8, help="frames of 40 ms")
    arguments = parser.parse_args()
    from asr_kd.export.export_bundle import ExportSettings, export_bundle, web_folder

    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            model, bundle = untrained(size, arguments.chunk, Path(folder) / "model"), Path(folder) / size
            settings = ExportSettings(formats=("sherpa", "web"), int8=True, client=False)
            export_bundle(model, bundle, [0.05 * torch.randn(SAMPLE_RATE)], settings=settings)
            found = asyncio.run(in_browser(web_folder(bundle)))
            ours = native(bundle / "model.int8.onnx")
        chunk_ms = 40 * arguments.chunk
        print(
            f"{size}, chunks of {chunk_ms} ms: browser RTF {found['factor']:.3f}, onnxruntime {ours:.3f}, ratio "
            f"{found['factor'] / ours:.1f}; lag {found['lag']:.0f} ms (95 %: {found['late']:.0f}), so a first word "
            f"after at most {chunk_ms + 30 + found['late']:.0f} ms; loaded in {found['load']:.0f} ms"
        )


if __name__ == "__main__":
    main()
