"""Headless Chromium through its DevTools protocol, for pages that need real time: a microphone, a websocket."""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import urllib.request
import wave
from pathlib import Path

import pytest

SPOKEN = """[...document.querySelectorAll('#finals p')].map((line) =>
  [...line.querySelectorAll('span')].map((word) => word.textContent).join(' '))"""
"""JavaScript for the final lines of the page."""
IDLE = "document.documentElement.dataset.state === 'ready'"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Tab:
    """A page that is open."""

    def __init__(self, socket) -> None:
        self._socket, self._number, self.console = socket, 0, []

    async def call(self, method, **parameters):
        """A command of the protocol; its result."""
        self._number += 1
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(await asyncio.wait_for(self._socket.recv(), 600))
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(message["error"])
                return message["result"]
            if message.get("method") == "Log.entryAdded":
                self.console.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.console.append(str(message["params"]["exceptionDetails"]))

    async def value(self, expression):
        """Of JavaScript; promises are awaited."""
        found = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    async def until(self, expression, seconds=40):
        """Wait for JavaScript to be true."""
        for _ in range(round(seconds / 0.1)):
            if await self.value(expression):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never: {expression}; {self.console}; {await self.value('document.body.innerText')}")

    async def look(self, width, height, scheme="light"):
        """The size of the window and the colours that are preferred."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, path: Path):
        """A screenshot of what is seen."""
        found = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))


def write_wav(path: Path, samples: bytes, rate: int = 16_000) -> None:
    """16-bit samples as a mono file."""
    with wave.open(str(path), "wb") as audio:
        audio.setparams((1, 2, rate, 0, "NONE", ""))
        audio.writeframes(samples)


def microphone(path: Path) -> tuple[str, ...]:
    """Flags for a microphone that plays a file."""
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}",
        "--autoplay-policy=no-user-gesture-required",
    )


@contextlib.asynccontextmanager
async def open_tab(folder: Path, url: str, *flags: str):
    """A browser with a home in `folder`, and one page in it."""
    from websockets.asyncio.client import connect

    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)} (Debian: apt-get install chromium)")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *flags]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder / 'browser'}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _port(folder / "browser" / "DevToolsActivePort")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
        opened = json.loads(await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=600).read()))
        async with connect(opened["webSocketDebuggerUrl"], max_size=None) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log"):
                await tab.call(f"{domain}.enable")
            await tab.call("Page.navigate", url=url)
            await tab.until("document.readyState === 'complete' && location.href !== 'about:blank'")
            yield tab
    finally:
        process.terminate()
        process.wait(30)


async def _port(path: Path) -> int:
    for _ in range(600):
        if path.is_file() and path.read_text().count("\n"):
            return int(path.read_text().splitlines()[0])
        await asyncio.sleep(0.1)
    raise AssertionError("the browser did not start")
