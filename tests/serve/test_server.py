"""Streams through a real websocket: many clients, any packets, health, metrics, tokens, TLS, pages from elsewhere."""

import asyncio
import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import wave
from pathlib import Path

import pytest
from pydantic import ValidationError

from asr_kd.serve.server import Server
from asr_kd.serve.settings import ServeSettings
from tests.helpers.serve_client import SPEECH, START, expected_texts, finals, pcm, receive_all, speak, stream_address
from tests.helpers.tiny_models import noise_speech, save_tiny_model

README = Path(__file__).parents[2] / "asr_kd" / "serve" / "README.md"


async def get(url, headers=None):
    """Status, headers and body of plain HTTP."""

    def fetch():
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=600) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    return await asyncio.to_thread(fetch)


def test_a_stream_says_what_our_own_says_whatever_its_packets(serving, recognizer):
    async def run():
        async with serving() as server:
            return [await speak(server, SPEECH, size) for size in (640, 3_200, 60_000)]

    expected = expected_texts(recognizer, SPEECH)
    assert len(expected) >= 2
    for messages, code in asyncio.run(run()):
        assert code == 1000
        assert finals(messages) == expected
        assert [message["type"] for message in (messages[0], messages[-1])] == ["ready", "done"]
        assert messages[-1]["seconds"] == 3.0
        for final in (message for message in messages if message["type"] == "final"):
            assert " ".join(word["word"] for word in final["words"]) == final["text"]
            assert final["start"] <= final["words"][0]["start"] < final["words"][-1]["end"] <= final["end"]


def test_the_audio_that_a_step_needs_after_its_chunk_is_stated_with_its_right_context(recognizer):
    pytest.importorskip("websockets")
    with_right = recognizer.in_context(recognizer.context._replace(right_context_frames=4))

    async def run(model):
        async with Server(model, ServeSettings(port=0), "tiny") as server:
            return (await speak(server, SPEECH))[0][0]["lookahead_ms"]

    assert [asyncio.run(run(model)) for model in (recognizer, with_right)] == [30, 190]


def test_many_clients_share_steps_and_none_hears_another(serving, recognizer):
    audio = [pcm(noise_speech(1.0 + 0.2 * number, seed=number)) for number in range(12)]

    async def run():
        async with serving() as server:
            said = await asyncio.gather(*(speak(server, one) for one in audio))
            _, _, metrics = await get(server.address + "metrics")
            return said, metrics.decode()

    said, metrics = asyncio.run(run())
    assert [finals(messages) for messages, _ in said] == [expected_texts(recognizer, one) for one in audio]
    steps, streams = (
        float(re.search(rf"asr_kd_step_streams_{name} ([\d.]+)", metrics)[1]) for name in ("count", "sum")
    )
    assert streams > 1.5 * steps  # most steps served several
    assert "asr_kd_streams_total 12.0" in metrics
    assert "asr_kd_clients 0.0" in metrics


def test_partials_come_while_the_stream_goes_on(serving):
    async def run():
        from websockets.asyncio.client import connect

        async with serving() as server, connect(stream_address(server)) as stream:
            await stream.send(json.dumps(START))
            await stream.send(SPEECH[:32_000])
            kinds = [json.loads(await asyncio.wait_for(stream.recv(), 600))["type"] for _ in range(2)]
            await stream.send(json.dumps({"type": "end"}))
            return kinds, await receive_all(stream)

    kinds, (messages, code) = asyncio.run(run())
    assert kinds[0] == "ready"
    assert kinds[1] in ("partial", "final")
    assert (messages[-1]["type"], code) == ("done", 1000)


def test_floats_are_heard_too_and_nothing_is_nothing(serving, recognizer):
    audio = noise_speech(1.5, seed=4)

    async def run():
        async with serving() as server:
            floats = audio.numpy().astype("<f4").tobytes()
            return await speak(server, floats, 4_000, {**START, "encoding": "f32le"}), await speak(server, b"")

    (said, _), (nothing, code) = asyncio.run(run())
    stream = recognizer.stream()
    assert " ".join(finals(said))
    assert stream.accept(audio) != ""
    assert [message["type"] for message in nothing] == ["ready", "done"]
    assert code == 1000


def test_page_health_metrics_and_nothing_else(serving):
    async def run():
        async with serving() as server:
            paths = ("", "page.js", "capture.js", "resampler.js", "page.css", "health", "metrics", "../errors.py", "x")
            return {path: await get(server.address + path) for path in paths}

    found = asyncio.run(run())
    assert {path for path, (status, _, _) in found.items() if status != 200} == {"../errors.py", "x"}
    for _, headers, _ in found.values():
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
    page = found[""][2].decode()
    assert not re.search(r"https?://|\son\w+=|style=", page)
    assert json.loads(found["health"][2])["status"] == "ok"
    assert b"asr_kd_lag_seconds_bucket" in found["metrics"][2]


def test_a_token_is_asked_for_in_start_or_in_a_header(serving):
    bearer = {"Authorization": "Bearer secret"}

    async def run():
        async with serving(token="secret") as server:
            said = [
                await speak(server, SPEECH[:9_600], start={**START, "token": "secret"}),
                await speak(server, SPEECH[:9_600], additional_headers=bearer),
                await speak(server, b"", start={**START, "token": "wrong"}),
                await speak(server, b""),
            ]
            metrics = [await get(server.address + "metrics", headers) for headers in ({}, bearer)]
            return said, [status for status, _, _ in metrics], await rejected(server, Authorization="Bearer no")

    said, metrics, status = asyncio.run(run())
    assert [code for _, code in said] == [1000, 1000, 1008, 1008]
    assert [messages[-1].get("code") for messages, _ in said] == [None, None, "unauthorized", "unauthorized"]
    assert metrics == [401, 200]
    assert status == 401


async def rejected(server, **headers):
    """The HTTP status that a websocket is refused with; 101 when it is not."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidStatus

    try:
        async with connect(stream_address(server), additional_headers=headers):
            return 101
    except InvalidStatus as error:
        return error.response.status_code


def test_pages_from_elsewhere_are_turned_away(serving):
    async def run():
        async with serving(origins=("https://talk.example",)) as server:
            own = server.address.rstrip("/")
            port = own.rpartition(":")[2]
            origins = [own, f"http://localhost:{port}", "https://talk.example", "http://evil.example"]
            origins += [f"http://evil.example:{port}", f"https://127.0.0.1:{port}", "http://127.0.0.1:1", "null"]
            return [await rejected(server, Origin=origin) for origin in origins]

    assert asyncio.run(run()) == [101, 101, 101, 403, 403, 403, 403, 403]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, 0),
        ({"host": "localhost"}, 0),
        ({"host": "0.0.0.0"}, 2),
        ({"host": "0.0.0.0", "token": "secret"}, 1),
        ({"host": "::", "token": "secret", "tls_cert": "c", "tls_key": "k"}, 0),
    ],
)
def test_who_listens_beyond_this_machine_is_told_what_stands_open(given, told):
    assert len(ServeSettings(**given).access_warnings()) == told


@pytest.mark.parametrize("given", [{"tls_cert": "c"}, {"port": 70_000}, {"token": ""}, {"max_clients": 0}])
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(ValidationError):
        ServeSettings(**given)


def test_over_tls(serving, tmp_path):
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", "key.pem", "-out", "cert.pem"),
        ],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")

    async def run():
        async with serving(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem") as server:
            assert server.address.startswith("https://")
            return await speak(server, SPEECH[:9_600], ssl=trusted)

    assert asyncio.run(run())[1] == 1000


def test_the_client_in_the_readme_runs(serving, recognizer, tmp_path):
    code = re.search(r"<!-- client -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len(code.splitlines()) <= 25
    (tmp_path / "client.py").write_text(code, encoding="utf-8")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as audio:
        audio.setparams((1, 2, 16_000, 0, "NONE", ""))
        audio.writeframes(SPEECH)

    async def run():
        async with serving() as server:
            command = [sys.executable, "client.py", "speech.wav", stream_address(server)]
            return await asyncio.to_thread(
                subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
            )

    done = asyncio.run(run())
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected_texts(recognizer, SPEECH)


@pytest.mark.slow
def test_the_verb_serves_and_ends_in_order(tmp_path):
    """A signal: the stream that is open is finished, and the process leaves with 0."""
    pytest.importorskip("websockets")
    from websockets.asyncio.client import connect

    folder = save_tiny_model(tmp_path / "student")
    command = [
        sys.executable,
        "-P",
        "-m",
        "asr_kd",
        "serve",
        str(folder),
        "--port",
        "0",
        "--grace",
        "0",
        "--pause",
        "0.3",
    ]

    async def run(process):
        line = (await process.stdout.readline()).decode()
        address = re.search(r"http://\S+", line)[0].replace("http", "ws", 1) + "stream"
        async with connect(address) as stream:
            await stream.send(json.dumps(START))
            assert json.loads(await stream.recv())["type"] == "ready"
            await stream.send(SPEECH[:48_000])
            await stream.recv()
            process.terminate()
            messages, code = await receive_all(stream)
        return messages, code, await asyncio.wait_for(process.wait(), 600)

    async def main():
        process = await asyncio.create_subprocess_exec(
            *command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            return await run(process)
        finally:
            if process.returncode is None:
                process.kill()

    messages, code, status = asyncio.run(main())
    kinds = [message["type"] for message in messages]
    assert "stopping" in kinds
    assert "final" in kinds
    assert kinds[-2:] == ["done", "error"]
    assert messages[-1]["code"] == "stopping"
    assert messages[-2]["seconds"] == 1.5
    assert (code, status) == (1001, 0)
