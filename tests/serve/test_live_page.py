"""The page in headless Chromium with a microphone that plays a file: words come, latency is shown, it fits."""

import asyncio
import json
import math

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import IDLE, SPOKEN, microphone, open_tab, write_wav
from tests.helpers.serve_client import SPEECH, START, expected_texts, stream_address

PHONE, LAPTOP = (390, 844), (1280, 800)
WIDE = "document.documentElement.scrollWidth - innerWidth"
UNNAMED = """[...document.querySelectorAll('button, input, a')].filter((node) =>
  !(node.textContent.trim() || node.getAttribute('aria-label') || node.labels?.length)).length"""

pytestmark = pytest.mark.slow

FIGURES = ("delay", "answer", "most")
"""The figures of the page, in milliseconds."""


def test_press_speak_and_words_turn_final(serving, tmp_path):
    write_wav(tmp_path / "speech.wav", SPEECH * 4)

    async def run():
        async with serving() as server, open_tab(tmp_path, server.address, *microphone(tmp_path / "speech.wav")) as tab:
            await tab.look(*LAPTOP)
            await tab.until("document.getElementById('model').textContent === 'tiny'")  # before a stream is open
            await tab.value("document.getElementById('speak').click()")
            await tab.until(f"{SPOKEN}.length >= 2")
            listening = await tab.value("document.documentElement.dataset.state")
            await tab.until("/^\\d+ ms$/.test(document.getElementById('answer').textContent)")
            delays = [await tab.value(f"parseInt(document.getElementById('{name}').textContent)") for name in FIGURES]
            await tab.picture(tmp_path / "listening.png")
            await tab.value("document.getElementById('speak').click()")
            await tab.until(IDLE)
            said = await tab.value(SPOKEN)
            places = []
            for size, scheme in ((PHONE, "dark"), (LAPTOP, "dark"), (PHONE, "light")):
                await tab.look(*size, scheme)
                places.append((await tab.value(WIDE), await tab.value("getComputedStyle(document.body).color")))
                await tab.picture(tmp_path / f"{size[0]}-{scheme}.png")
            return (
                listening,
                delays,
                said,
                places,
                await tab.value(UNNAMED),
                tab.console,
                server.metrics.text(),
            )

    listening, delays, said, places, unnamed, console, metrics = asyncio.run(run())
    assert listening == "listening"
    assert delays[1] + 30 < delays[0] < delays[2]  # the answer, and half a chunk with the lookahead; the most
    assert all(said)
    assert set("".join(said)) <= set("abcdefghijk ")
    assert [wide for wide, _ in places] == [0, 0, 0]
    assert places[0][1] != places[2][1]
    assert unnamed == 0
    assert console == []
    assert "asr_kd_streams_total 1.0" in metrics
    for name in ("listening.png", "390-dark.png", "1280-dark.png", "390-light.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 50


def test_a_file_says_what_it_says_to_us_and_refusals_are_shown(serving, recognizer, tmp_path):
    write_wav(tmp_path / "speech.wav", SPEECH)

    async def run():
        async with serving(token="secret") as server, open_tab(tmp_path, server.address) as tab:
            await choose(tab, tmp_path / "speech.wav")
            await tab.until("!document.getElementById('ask').hidden")
            refused = await tab.value("document.getElementById('notice').textContent")
            await tab.value("document.getElementById('token').value = 'secret'")
            await tab.value("document.getElementById('ask').requestSubmit()")
            await choose(tab, tmp_path / "speech.wav")
            await tab.until(f"{IDLE} && {SPOKEN}.length > 0")
            said = await tab.value(SPOKEN)
            (tmp_path / "no.wav").write_bytes(b"no audio")
            await choose(tab, tmp_path / "no.wav")
            await tab.until("document.documentElement.dataset.state === 'error'")
            return refused, said, await tab.value("document.getElementById('notice').textContent")

    refused, said, damaged = asyncio.run(run())
    assert "token" in refused
    assert said == [text.lower() for text in expected_texts(recognizer, SPEECH)]
    assert damaged == "The browser cannot decode this file."


async def choose(tab, path):
    """Choose a file as a person would."""
    found = await tab.call("Runtime.evaluate", expression="document.getElementById('file')")
    await tab.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])


def test_a_server_that_is_full_says_so_on_the_page(serving, tmp_path):
    write_wav(tmp_path / "speech.wav", SPEECH)

    async def run():
        from websockets.asyncio.client import connect

        async with serving(max_clients=1) as server, connect(stream_address(server)) as taken:
            await taken.send(json.dumps(START))
            async with open_tab(tmp_path, server.address, *microphone(tmp_path / "speech.wav")) as tab:
                await tab.value("document.getElementById('speak').click()")
                await tab.until("document.documentElement.dataset.state === 'error'")
                await tab.until("!document.getElementById('speak').disabled")
                return await tab.value("document.getElementById('notice').textContent"), tab.console

    notice, console = asyncio.run(run())
    assert notice == "as many streams as there may be (1) are open; try again later (too-many-clients)"
    assert console == []


RESAMPLE = """(async () => {
  const { Resampler } = await import('/resampler.js');
  const told = {};
  const tones = [[48000, 1000], [44100, 3000], [48000, 6500], [48000, 9500], [8000, 1000], [16000, 2000]];
  for (const [rate, hertz] of tones) {
    const tone = (at) => Math.sin(2 * Math.PI * hertz * at / rate);
    const resampler = new Resampler(rate), packets = [];
    for (let at = 0; at < rate; at += 128)
      packets.push(resampler.push(Float32Array.from({ length: 128 }, (_, i) => tone(at + i))));
    packets.push(resampler.flush());
    const output = packets.flatMap((packet) => [...packet]);
    let worst = 0, loudest = 0;
    for (let i = 800; i < 15200; i++) {
      worst = Math.max(worst, Math.abs(output[i] - Math.sin(2 * Math.PI * hertz * i / 16000)));
      loudest = Math.max(loudest, Math.abs(output[i]));
    }
    told[`${rate} ${hertz}`] = [output.length, worst, loudest];
  }
  return JSON.stringify(told);
})()"""


def test_any_rate_becomes_16_khz(serving, tmp_path):
    """Tones keep their place and height; one above half the rate is gone (60 dB) instead of folding back."""

    async def run():
        async with serving() as server, open_tab(tmp_path, server.address) as tab:
            return json.loads(await tab.value(RESAMPLE))

    found = asyncio.run(run())
    assert len(found) == 6
    for name, (length, worst, loudest) in found.items():
        assert abs(length - 16_000) <= 128
        if name == "48000 9500":
            assert 20 * math.log10(loudest) < -60
        else:
            assert worst < 2e-3, name
