"""The page without a server, in headless Chromium, and its worker in Node.js too: the transcript of our own recognizer,
offline, no audio sent."""

import asyncio
import contextlib
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asr_kd.decoding.settings import EndpointSettings
from asr_kd.errors import BundleError
from asr_kd.export import web
from asr_kd.export.export_bundle import ExportSettings, export_bundle, web_folder
from asr_kd.export.web import write_web
from asr_kd.features.fbank import fbank
from asr_kd.models.settings import Context
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.serve.protocol import samples_of
from tests.helpers.browser import IDLE, SPOKEN, microphone, open_tab, write_wav
from tests.helpers.serve_client import SPEECH
from tests.helpers.tiny_models import CHUNK_FRAMES, noise_speech, save_tiny_model
from tests.helpers.tiny_run import ROOT

STOPPED = "document.documentElement.dataset.state === 'error'"

PACKETS = ((52_800, 777), (16_000, 16_000), (401, 50), (640, 640))
"""Samples in all, and in a packet."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with its page."""
    if not web.RUNTIME_FOLDER.is_dir():
        pytest.skip("onnxruntime-web has not been fetched (make web, which needs npm)")
    folder = tmp_path_factory.mktemp("web")
    model = save_tiny_model(folder / "model")
    settings = ExportSettings(formats=("sherpa", "web"), client=False, context=Context(CHUNK_FRAMES, 8, 2))
    export_bundle(model, folder / "tiny", [noise_speech(2.0)], settings=settings)
    return folder / "tiny"


@pytest.fixture(scope="module")
def recognizer(bundle):
    return open_recognizer(bundle)


def transcript(recognizer, audio: bytes) -> list[str]:
    """What a stream of our own gives, by the client's endpoint rules."""
    stream = recognizer.stream(EndpointSettings(), cut_at_endpoints=True)
    stream.accept(samples_of(audio, "s16le"))
    last = stream.final()
    return [*(utterance.text for utterance in stream.take_utterances()), *([last] if last else [])]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.asked.append(self.path)


@contextlib.contextmanager
def served(folder):
    """Any static file server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


NODE = """
import fs from "node:fs";
const texts = [], read = (name) => fs.readFileSync(new URL(name, import.meta.url));
globalThis.fetch = async (name) => ({
  ok: true, json: async () => JSON.parse(read(name)), arrayBuffer: async () => new Uint8Array(read(name)).buffer,
});
globalThis.postMessage = (message) => {
  if (message.type === "final") texts.push(message.text);
  if (message.type === "error") throw new Error(message.message);
  if (message.type === "done") { console.log(JSON.stringify(texts)); process.exit(0); }
};
globalThis.onmessage = null;
await import("./worker.js");
const samples = new Int16Array(new Uint8Array(read("speech.s16le")).buffer);
onmessage({ data: { type: "open" } });
for (let i = 0; i < samples.length; i += 1777) {
  onmessage({ data: { type: "audio", samples: samples.slice(i, i + 1777) } });
}
onmessage({ data: { type: "end" } });
setInterval(() => {}, 1000);
"""


def test_its_worker_gives_the_transcript_of_our_recognizer_in_node_too(bundle, recognizer, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    folder = shutil.copytree(web_folder(bundle), tmp_path / "page")
    (folder / "speech.s16le").write_bytes(SPEECH)
    (folder / "main.mjs").write_text(NODE, encoding="utf-8")
    done = subprocess.run([node, "main.mjs"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == transcript(recognizer, SPEECH)


async def choose(tab, path):
    found = await tab.call("Runtime.evaluate", expression="document.getElementById('file')")
    await tab.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])


def test_a_file_has_the_transcript_of_our_recognizer_and_a_wrong_file_one_message(bundle, recognizer, tmp_path):
    write_wav(tmp_path / "speech.wav", SPEECH)
    (tmp_path / "no.wav").write_bytes(b"no audio")

    async def run():
        with served(web_folder(bundle)) as (server, address):
            async with open_tab(tmp_path, address) as tab:
                await choose(tab, tmp_path / "speech.wav")
                await tab.until(f"{IDLE} && {SPOKEN}.length > 0")
                said = await tab.value(SPOKEN)
                await choose(tab, tmp_path / "no.wav")
                await tab.until(STOPPED)
                notice = await tab.value("document.getElementById('notice').textContent")
                await choose(tab, tmp_path / "speech.wav")  # the page goes on
                await tab.until(f"{IDLE} && {SPOKEN}.length === {2 * len(said)}")
                name = await tab.value("document.getElementById('model').textContent")
                return said, notice, name, tab.console, server.asked

    said, notice, name, console, asked = asyncio.run(run())
    assert said == [text.lower() for text in transcript(recognizer, SPEECH)]
    assert notice == "The browser cannot decode this file."
    assert name == "tiny"
    assert console == []
    assert {path.lstrip("/") for path in asked} <= {"", *(path.name for path in web_folder(bundle).iterdir())}


def test_the_microphone_gives_words_and_a_latency(bundle, tmp_path):
    write_wav(tmp_path / "speech.wav", SPEECH * 4)

    async def run():
        with served(web_folder(bundle)) as (_, address):
            async with open_tab(tmp_path, address, *microphone(tmp_path / "speech.wav")) as tab:
                await tab.value("document.getElementById('speak').click()")
                await tab.until("document.getElementById('partial').textContent.length > 0")
                await tab.until("/ms/.test(document.getElementById('answer').textContent)")
                await tab.picture(tmp_path / "page.png")
                await tab.value("document.getElementById('speak').click()")
                await tab.until(IDLE)
                return await tab.value(SPOKEN), tab.console

    said, console = asyncio.run(run())
    assert all(said)
    assert console == []
    assert (tmp_path / "page.png").stat().st_size > 5_000


def test_it_works_without_a_network_after_the_first_load(bundle, recognizer, tmp_path):
    write_wav(tmp_path / "speech.wav", SPEECH)

    async def run():
        with served(web_folder(bundle)) as (server, address):
            async with open_tab(tmp_path, address) as tab:
                await tab.value("navigator.serviceWorker.ready.then(() => true)")
                await tab.until("navigator.serviceWorker.controller !== null")
                server.shutdown()
                server.server_close()
                await tab.call("Page.reload")
                await tab.until("document.readyState === 'complete' && !!document.getElementById('file')")
                await choose(tab, tmp_path / "speech.wav")
                await tab.until(f"{IDLE} && {SPOKEN}.length > 0")
                return await tab.value(SPOKEN)

    assert asyncio.run(run()) == [text.lower() for text in transcript(recognizer, SPEECH)]


def test_the_page_is_pictured(bundle, tmp_path):
    """`make screenshot` takes the demo's page and recordings, and keeps the picture in docs; a test needs no demo."""
    kept, demo = os.environ.get("ASR_KD_SCREENSHOT"), ROOT / "exp" / "synthetic"
    page, recordings = web_folder(bundle), [tmp_path / "1.wav", tmp_path / "2.wav"]
    for path in recordings:
        write_wav(path, SPEECH)
    if kept:
        page = demo / "export" / "student-kd-web"
        recordings = sorted((demo / "corpus").glob("synthetic/test/**/*.flac"))[1:4:2]
        assert page.is_dir(), f"{page} is missing: run make demo first"
    picture = Path(kept) if kept else tmp_path / "page.png"

    async def run():
        with served(page) as (_, address):
            async with open_tab(tmp_path, address) as tab:
                await tab.look(900, 700)
                for path in recordings:
                    before = await tab.value(f"{SPOKEN}.length")
                    await choose(tab, path)
                    await tab.until(f"{IDLE} && {SPOKEN}.length > {before}")
                await tab.picture(picture)

    asyncio.run(run())
    with Image.open(picture) as image:
        assert image.size == (900, 700)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50, "text and buttons"


def test_ten_minutes_have_the_transcript_of_our_recognizer(bundle, recognizer, tmp_path):
    seconds = len(SPEECH) / 32_000
    speech = SPEECH * round(600 / seconds)
    write_wav(tmp_path / "long.wav", speech)

    async def run():
        with served(web_folder(bundle)) as (_, address):
            async with open_tab(tmp_path, address) as tab:
                await choose(tab, tmp_path / "long.wav")
                await tab.until(f"{IDLE} && {SPOKEN}.length > 0", seconds=300)
                return await tab.value(SPOKEN)

    assert asyncio.run(run()) == [text.lower() for text in transcript(recognizer, speech)]


FEATURES = """import('./fbank.js').then(({ StreamingFbank, BINS }) => {
  const fbank = new StreamingFbank(), found = [], row = new Float32Array(BINS);
  const take = () => { while (fbank.ready) { fbank.next(row, 0); found.push(...row); } };
  const samples = Float32Array.from(SAMPLES);
  for (let at = 0; at < samples.length; at += PACKET) { fbank.accept(samples.subarray(at, at + PACKET)); take(); }
  fbank.end();
  take();
  return found;
})"""


def test_its_filter_banks_are_ours_for_any_packets(bundle, tmp_path):
    cases = [(noise_speech(3.3, seed=5)[:length].contiguous(), packet) for length, packet in PACKETS]

    async def run():
        with served(web_folder(bundle)) as (_, address):
            async with open_tab(tmp_path, address) as tab:
                scripts = [
                    FEATURES.replace("SAMPLES", json.dumps(samples.tolist())).replace("PACKET", str(packet))
                    for samples, packet in cases
                ]
                return [await tab.value(script) for script in scripts]

    for (samples, _), rows in zip(cases, asyncio.run(run()), strict=True):
        found, expected = torch.tensor(rows).reshape(-1, 80), fbank(samples)
        assert found.shape == expected.shape
        assert float((found - expected).abs().max()) < 1e-3


def test_a_damaged_model_is_one_message(bundle, tmp_path):
    shutil.copytree(web_folder(bundle), tmp_path / "page")
    content = bytearray((tmp_path / "page" / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "page" / "model.onnx").write_bytes(content)
    write_wav(tmp_path / "speech.wav", SPEECH)

    async def run():
        with served(tmp_path / "page") as (_, address):
            async with open_tab(tmp_path, address) as tab:
                await choose(tab, tmp_path / "speech.wav")
                await tab.until(STOPPED)
                return await tab.value("document.getElementById('notice').textContent")

    assert "model.onnx is damaged; copy the folder again" in asyncio.run(run())


def test_what_is_not_ours_is_kept_and_a_missing_runtime_names_the_command(bundle, tmp_path, monkeypatch):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(Exception, match=r"mine|not empty|taken"):
        write_web(bundle, tmp_path / "taken")
    assert (tmp_path / "taken" / "mine.txt").read_text() == "mine"
    monkeypatch.setattr(web, "RUNTIME_FOLDER", tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"python -m asr_kd\.export\.web"):
        write_web(bundle, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_the_page_states_a_strict_policy(bundle):
    page = (web_folder(bundle) / "index.html").read_text()
    assert "default-src 'none'" in page
    assert "connect-src 'self'" in page
    assert "unsafe-inline" not in page
    assert np.all([(web_folder(bundle) / name).is_file() for name in ("service-worker.js", "onnxruntime-web.LICENSE")])
