"""Clients that do it wrong, or leave: each is refused with a reason, memory stays bounded, and others are unharmed."""

import asyncio
import json
import socket
import time
from types import SimpleNamespace

import pytest
import torch

from asr_kd.errors import ServeError
from asr_kd.runtime.backend import TorchBackend
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.runtime.streaming import step_together
from asr_kd.serve import scheduler, session
from asr_kd.serve.admission import Metrics
from asr_kd.serve.protocol import samples_of
from asr_kd.serve.scheduler import Scheduler
from asr_kd.serve.server import Server
from asr_kd.serve.settings import ServeSettings
from tests.helpers.serve_client import SPEECH, START, expected_texts, finals, receive_all, speak, stream_address
from tests.helpers.tiny_models import VOCABULARY, tiny_model


async def until(server, clients):
    """Wait until so many streams are open."""
    while f"asr_kd_clients {clients:.1f}" not in server.metrics.text():
        await asyncio.sleep(0.01)


async def told(server, *messages):
    """Send messages; the server's last message and close code."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(stream_address(server)) as stream:
        try:
            for message in messages:
                await stream.send(json.dumps(message) if isinstance(message, dict) else message)
        except ConnectionClosed:
            pass
        answers, code = await receive_all(stream)
        return (answers or [{}])[-1].get("code"), code, stream.close_reason


NOT_A_NUMBER, LOUD = (torch.tensor([value]).numpy().tobytes() for value in (float("nan"), 30_000.0))
FLOATS = {**START, "encoding": "f32le"}
WRONG = {
    "audio first": ([b"\0\0"], "malformed", 1007),
    "no JSON": (["{"], "malformed", 1007),
    "a list": (["[]"], "malformed", 1007),
    "nested": (["[" * 4_000], "malformed", 1007),
    "an unknown key": ([{**START, "language": "en"}], "malformed", 1007),
    "another protocol": ([{**START, "protocol": 2}], "malformed", 1007),
    "another rate": ([{**START, "sample_rate": 44_100}], "sample-rate", 1003),
    "long text": ([START, "x" * 5_000], "too-large", 1009),
    "half a sample": ([START, b"\0\0\0"], "malformed", 1007),
    "start twice": ([START, START], "malformed", 1007),
    "not a number": (
        [FLOATS, NOT_A_NUMBER],
        "malformed",
        1007,
    ),
    "too loud": ([FLOATS, LOUD], "malformed", 1007),
    "oversize": ([START, bytes(70_000)], None, 1009),
    "too many": ([START, *[b""] * 200], "rate", 1008),
}


def test_what_is_wrong_is_refused_with_a_reason_and_harms_nobody(serving, recognizer):
    """While all of it happens, another client speaks."""

    async def run():
        async with serving(messages_per_second=15) as server:
            good = asyncio.create_task(speak(server, SPEECH))
            found = {name: await told(server, *messages) for name, (messages, _, _) in WRONG.items()}
            return found, await good, server.metrics.text()

    found, (messages, code), metrics = asyncio.run(run())
    assert {name: answer[:2] for name, answer in found.items()} == {
        name: (reason, code) for name, (_, reason, code) in WRONG.items()
    }
    assert all(len(reason) > 10 for _, _, reason in found.values())
    assert (finals(messages), code) == (expected_texts(recognizer, SPEECH), 1000)
    for reason in ("malformed", "sample-rate", "too-large", "rate"):
        assert f'asr_kd_refusals_total{{reason="{reason}"}}' in metrics


def test_too_many_clients_are_told_so_and_there_is_room_again_when_one_leaves(serving):
    async def run():
        from websockets.asyncio.client import connect

        async with serving(max_clients=2) as server:
            first, second = [await connect(stream_address(server)) for _ in range(2)]
            for stream in (first, second):
                await stream.send(json.dumps(START))
                await stream.recv()
            refused = await told(server, START)
            await first.close()
            await until(server, clients=1)
            again = await speak(server, SPEECH[:6_400])
            await second.close()
            return refused, again[1]

    (code, close, reason), again = asyncio.run(run())
    assert (code, close) == ("too-many-clients", 1013)
    assert "(2)" in reason
    assert again == 1000


def test_a_busy_model_takes_nobody_new(serving):
    async def run():
        async with serving(busy_load=1e-9) as server:
            first = (await speak(server, SPEECH))[1]
            return first, (await told(server, START))[:2]

    assert asyncio.run(run()) == (1000, ("busy", 1013))


def test_one_that_leaves_in_the_middle_is_forgotten(serving, recognizer):
    async def run():
        from websockets.asyncio.client import connect

        async with serving() as server:
            good = asyncio.create_task(speak(server, SPEECH))
            for number in range(6):
                stream = await connect(stream_address(server))
                await stream.send(json.dumps(START))
                await stream.send(SPEECH[:40_000])
                if number % 2:
                    stream.transport.abort()  # without a word
                else:
                    await stream.close()
            said = await good
            await until(server, clients=0)
            return said

    messages, code = asyncio.run(asyncio.wait_for(run(), 60))
    assert (finals(messages), code) == (expected_texts(recognizer, SPEECH), 1000)


def test_one_that_stops_reading_is_dropped_and_its_memory_bounded(serving, recognizer, monkeypatch):
    """It goes on sending and reads nothing; the server keeps little and lets it go."""
    streams, open_stream = [], Scheduler.open
    monkeypatch.setattr(
        Scheduler, "open", lambda self, progress: streams.append(open_stream(self, progress)) or streams[-1]
    )

    async def run():
        async with serving(ping_seconds=2, pending_seconds=1.0) as server:
            _, writer = await by_hand(server, limit=1_024)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            kept = []
            good = asyncio.create_task(speak(server, SPEECH))

            async def flood():
                while True:
                    writer.write(frame(2, SPEECH[:32_000]))
                    await writer.drain()

            flooding = asyncio.create_task(flood())
            while not flooding.done():
                kept.append(max((live.pending_samples for live in streams), default=0))
                await asyncio.sleep(0.01)
            with pytest.raises(ConnectionError):
                await flooding
            said = await good
            await until(server, clients=0)
            return said, max(kept), server.metrics.text()

    (messages, code), kept, metrics = asyncio.run(asyncio.wait_for(run(), 600))
    assert (finals(messages), code) == (expected_texts(recognizer, SPEECH), 1000)
    assert 0 < kept <= 2.1 * 16_000  # a second may wait, and the packet that fills it
    assert 'asr_kd_refusals_total{reason="not-reading"} 1.0' in metrics


def test_one_that_answers_no_ping_is_served_until_it_is_idle(serving):
    """A reply to a ping waits behind the audio of a client, so nothing follows from its absence."""

    async def run():
        async with serving(ping_seconds=0.1, idle_seconds=1.0) as server:
            reader, writer = await by_hand(server)
            said = await reader.read()  # to the end; nobody answers
            writer.close()
            await until(server, clients=0)
            return said

    assert b'"code": "idle"' in asyncio.run(asyncio.wait_for(run(), 600))


async def by_hand(server, **options):
    """A stream that has started, without a library, which would read and answer for us."""
    host, port = server.address.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), **options)
    await handshake(reader, writer, host, port)
    writer.write(frame(1, json.dumps(START).encode()))
    return reader, writer


async def handshake(reader, writer, host, port):
    lines = [f"GET /stream HTTP/1.1\r\nHost: {host}:{port}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    while (await reader.readline()).strip():
        pass


def frame(opcode, payload):
    """A masked frame; the mask is zero."""
    size = len(payload)
    head = bytes([0x80 | opcode, 0x80 | (size if size < 126 else 126)])
    return head + (b"" if size < 126 else size.to_bytes(2, "big")) + bytes(4) + payload


def test_a_client_that_does_not_take_what_it_is_sent_is_refused():
    """What is sent is bounded too: a newer partial replaces an older one, and after a while the client is given up."""
    from asr_kd.serve.protocol import Refusal
    from asr_kd.serve.session import Outbox

    sent = []

    class Slow:
        async def send(self, message):
            sent.append(message)
            await asyncio.sleep(60 if message == "final 0" else 0)
            return True

    async def run():
        outbox = Outbox()
        for number in range(1_000):
            outbox.add(f"partial {number}", partial=True)
        sending = asyncio.create_task(outbox.send_all(Slow(), 0.05))
        await outbox.empty.wait()
        assert sent == ["partial 999"]
        outbox.add("partial 1000", partial=True)
        for number in range(64):
            assert outbox.room.is_set()
            outbox.add(f"final {number}")
        assert not outbox.room.is_set()
        with pytest.raises(Refusal, match="not-reading"):
            await sending
        assert sent == ["partial 999", "final 0"], "a final removes the partial before it"

    asyncio.run(run())


def test_silence_and_length_end_a_stream_after_what_came_is_answered(serving, recognizer):
    async def run():
        async with serving(idle_seconds=0.4, start_seconds=0.3) as server:
            never = await told(server)
            idle = await unended(server, SPEECH)
        async with serving(stream_seconds=2.0) as server:
            return never, idle, await unended(server, SPEECH)

    never, (idle, idle_code), (long, long_code) = asyncio.run(run())
    assert never[:2] == ("idle", 1008)
    assert finals(idle) == expected_texts(recognizer, SPEECH)
    assert (idle[-1]["code"], idle_code) == ("idle", 1008)
    assert finals(long) == expected_texts(recognizer, SPEECH[:64_000])
    assert (long[-1]["code"], long_code) == ("too-long", 1008)


async def unended(server, audio):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(stream_address(server)) as stream:
        await stream.send(json.dumps(START))
        try:
            for at in range(0, len(audio), 3_200):
                await stream.send(audio[at : at + 3_200])
        except ConnectionClosed:
            pass
        return await receive_all(stream)


def test_a_client_faster_than_the_model_waits_and_loses_nothing(serving, recognizer):
    async def run():
        async with serving(pending_seconds=0.2) as server:
            return await speak(server, SPEECH * 3, 6_400)

    messages, code = asyncio.run(run())
    assert code == 1000
    assert finals(messages) == expected_texts(recognizer, SPEECH * 3)


def test_replies_to_pings_may_wait_behind_a_file_that_is_sent_at_once(serving, recognizer, monkeypatch):
    def slow_steps(streams):
        time.sleep(0.02)
        return step_together(streams)

    monkeypatch.setattr(scheduler, "step_together", slow_steps)

    async def run():
        async with serving(pending_seconds=0.2, ping_seconds=0.1) as server:
            return await speak(server, SPEECH * 2, ping_interval=None)

    messages, code = asyncio.run(run())
    assert code == 1000, messages[-1]
    assert finals(messages) == expected_texts(recognizer, SPEECH * 2)


def test_a_file_sent_at_once_has_as_many_messages_as_its_seconds_allow(serving, recognizer, monkeypatch):
    """Also where it takes no time at all."""
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: 0.0))

    async def run():
        async with serving(messages_per_second=1) as server:
            return await speak(server, SPEECH * 4, 32_000), await speak(server, SPEECH, 3_200)

    (messages, code), (refused, refused_code) = asyncio.run(run())
    assert code == 1000, messages[-1]
    assert finals(messages) == expected_texts(recognizer, SPEECH * 4)
    assert (refused[-1]["code"], refused_code) == ("rate", 1008)


def test_an_end_that_comes_during_a_step_is_decoded_in_the_next(monkeypatch):
    """Output that is not finite then ends that stream, and not the thread of all streams."""
    backend = TorchBackend(tiny_model())
    step, results = backend.step, []

    async def run():
        rounds, loop = (
            Scheduler(Recognizer(backend, VOCABULARY), ServeSettings(), Metrics()),
            asyncio.get_running_loop(),
        )
        live = rounds.open(results.append)

        def ends_meanwhile(features, state):
            if live.ends:
                return step(features, state)[0] * float("nan"), state
            if live.received_samples and not live.packets:  # no warm-up
                loop.call_soon_threadsafe(rounds.end, live)
                while not live.ends:
                    time.sleep(0.001)
            return step(features, state)

        monkeypatch.setattr(backend, "step", ends_meanwhile)
        work = asyncio.create_task(rounds.run())
        await rounds.put(live, samples_of(SPEECH, "s16le")[: live.missing_samples])
        while not (live.done or work.done()):
            await asyncio.sleep(0.01)
        failed = work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        return failed

    assert asyncio.run(run()) is False
    assert [result.refusal is None for result in results] == [True, False]


def test_stopping_takes_nobody_new_and_lets_streams_end_themselves(serving, recognizer):
    async def run():
        from websockets.asyncio.client import connect

        async with serving() as server, connect(stream_address(server)) as stream:
            await stream.send(json.dumps(START))
            await stream.send(SPEECH[:32_000])
            await stream.recv()
            stopping = asyncio.create_task(server.stop(20.0))
            await asyncio.sleep(0.05)
            refused = await told(server, START)
            await stream.send(SPEECH[32_000:64_000])
            await stream.send(json.dumps({"type": "end"}))
            said = await receive_all(stream)
            await stopping
            return refused, said

    refused, (messages, code) = asyncio.run(run())
    assert refused[:2] == ("stopping", 1001)
    assert code == 1000
    assert messages[-1] == {"type": "done", "seconds": 2.0}


def test_an_address_that_is_taken_and_a_certificate_that_is_none_are_named(recognizer, tmp_path):
    pytest.importorskip("websockets")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = ServeSettings(port=taken.getsockname()[1])

        async def run():
            async with Server(recognizer, settings):
                pass

        with pytest.raises(ServeError, match=r"cannot open the address.*--port"):
            asyncio.run(run())
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(ServeError, match=r"cert\.pem"):
        Server(recognizer, ServeSettings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem"))
