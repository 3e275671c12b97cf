"""A client that sends anything: each connection ends with a reason, memory stays bounded, and others are unaffected."""

import asyncio
import contextlib
import json
import logging
import random

import pytest

from tests.helpers.mutations import bounded_memory, mutations
from tests.helpers.serve_client import SPEECH, START, expected_texts, finals, receive_all, speak, stream_address

MESSAGES = 96
"""Streams of mutated messages."""
REQUESTS = 120
"""Connections of mutated bytes, below the protocol."""
STARTS = (START, {**START, "encoding": "f32le"}, {**START, "sample_rate": 8_000, "encoding": "mulaw"}, {"type": "end"})


def messages_of(seed: int) -> list[str | bytes]:
    """A start, often damaged, then audio, text and nonsense."""
    generator = random.Random(seed)
    start = json.dumps(generator.choice(STARTS)).encode()
    first = start if generator.random() < 0.5 else next(mutations(start, f"start {seed}", 1))
    sent: list[str | bytes] = [first.decode("utf-8", "replace")]
    for _ in range(generator.randrange(6)):
        size = generator.choice([0, 1, 2, 7, 160, 3_200, 3_201, 65_536, 70_000])
        kind = generator.choice(["noise", "speech", "text", "json", "end"])
        if kind == "noise":
            sent.append(generator.randbytes(size))
        elif kind == "speech":
            sent.append(SPEECH[:size])
        elif kind == "text":
            sent.append("".join(chr(generator.randrange(32, 0x2FFF)) for _ in range(min(size, 4_000))))
        elif kind == "json":
            sent.append(next(mutations(start, f"{seed} {size}", 1)).decode("utf-8", "replace"))
        else:
            sent.append(json.dumps({"type": "end"}))
    return sent


async def send_all(server, sent):
    """Send messages, then end; how the server closed."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(stream_address(server)) as stream:
        with contextlib.suppress(ConnectionClosed):
            for message in [*sent, json.dumps({"type": "end"})]:
                await stream.send(message)
        await receive_all(stream)
        return stream.close_code


async def raw(server, content):
    """Bytes on a connection of their own; what came back."""
    host, port = server.address.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(ConnectionError):
        writer.write(content)
        writer.write_eof()
        await writer.drain()
        found = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        return found
    return b""


def handshake_of(host: str) -> bytes:
    lines = ["GET /stream HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + b"\x81\x85\x00\x00\x00\x00hello"


@pytest.mark.slow
def test_fuzzed_streams_end_with_a_reason_and_harm_nobody(serving, recognizer, caplog):
    """96 streams of mutated messages and 120 connections of mutated bytes, while other clients speak."""
    caplog.set_level(logging.DEBUG)

    async def run():
        async with serving(max_clients=32, messages_per_second=200) as server:
            codes, good = [], []
            for number in range(0, MESSAGES, 8):
                if number % 40 == 0:
                    good.append(asyncio.create_task(speak(server, SPEECH)))
                codes += await asyncio.gather(
                    *(send_all(server, messages_of(seed)) for seed in range(number, number + 8))
                )
            request = handshake_of(server.address.removeprefix("http://").rstrip("/"))
            damaged = list(mutations(request, "requests", REQUESTS))
            for at in range(0, REQUESTS, 12):  # some wait for the end of a request that never comes
                await asyncio.gather(*(raw(server, changed) for changed in damaged[at : at + 12]))
            good.append(asyncio.create_task(speak(server, SPEECH)))
            answers = await asyncio.gather(*good)
            while "asr_kd_clients 0.0" not in server.metrics.text():
                await asyncio.sleep(0.01)
            return codes, answers

    with bounded_memory():
        codes, answers = asyncio.run(asyncio.wait_for(run(), 540))
    assert len(codes) == MESSAGES
    assert set(codes) <= {1000, 1003, 1007, 1008, 1009, 1013}, sorted(set(codes))
    wanted = expected_texts(recognizer, SPEECH)
    assert all((finals(messages), code) == (wanted, 1000) for messages, code in answers)
    traced = [record for record in caplog.records if record.exc_info and record.levelno >= logging.ERROR]
    assert not traced, traced[:3]
