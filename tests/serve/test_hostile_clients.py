"""Clients that occupy, guess or flood: others are served meanwhile, and the log stays short."""

import asyncio
import json
import re
import socket
import subprocess
import time

import pytest

from asr_kd.serve.admission import Admission, Metrics, group_of
from asr_kd.serve.protocol import Refusal
from asr_kd.serve.settings import ServeSettings
from tests.helpers.serve_client import SPEECH, START, speak, stream_address

ELSEWHERE = "127.0.0.2"
"""Another address of this machine, as Linux has them."""


def port_of(server):
    return int(server.address.rstrip("/").rpartition(":")[2])


async def exchange(server, request, source="127.0.0.1"):
    """Send bytes and read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), local_addr=(source, 0))
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer


async def silent(server, source=ELSEWHERE, opens=True):
    """A connection that sends nothing; a websocket, or not even a request."""
    from websockets.asyncio.client import connect

    try:
        if opens:
            return await connect(stream_address(server), local_addr=(source, 0))
        return await asyncio.open_connection("127.0.0.1", port_of(server), local_addr=(source, 0))
    except OSError as error:
        pytest.skip(f"no second address on this machine ({error})")


@pytest.mark.parametrize("opens", [True, False])
def test_silent_connections_exclude_nobody(serving, opens):
    """Neither from another address nor from the same one, and however many they are."""

    async def run():
        async with serving(max_clients=4, max_waiting=32, start_seconds=60) as server:
            occupied = [await silent(server, opens=opens) for _ in range(64)]
            begun = time.monotonic()
            codes = [
                (await speak(server, SPEECH[:9_600], local_addr=(where, 0)))[1] for where in ("127.0.0.1", ELSEWHERE)
            ]
            return codes, time.monotonic() - begun, len(occupied), server.metrics.text()

    codes, seconds, occupied, metrics = asyncio.run(run())
    assert (codes, occupied) == ([1000, 1000], 64)
    assert seconds < 5
    closed = re.search(r'asr_kd_refusals_total\{reason="too-many-connections"\} (\d+)', metrics)
    assert closed is not None
    assert int(closed[1]) >= 64 - 32, "no more than max_waiting are kept"


def test_one_address_cannot_take_every_slot(serving):
    from websockets.asyncio.client import connect

    async def run():
        async with serving(max_clients=4, max_clients_per_address=3) as server:
            streams, codes = [], []
            for _ in range(4):
                stream = await connect(stream_address(server), local_addr=(ELSEWHERE, 0))
                await stream.send(json.dumps(START))
                codes.append(json.loads(await stream.recv()).get("code"))
                streams.append(stream)
            other = await speak(server, SPEECH[:9_600])
            await asyncio.gather(*(stream.close() for stream in streams))
            return codes, other[1]

    codes, other = asyncio.run(run())
    assert codes == [None, None, None, "too-many-clients"]
    assert other == 1000


def test_wrong_tokens_are_throttled_by_address_and_logged_once(serving, caplog):
    """A flood of 200 wrong tokens, then the right one: not from that address, but from another."""

    async def run():
        right = {**START, "token": "secret"}
        async with serving(token="secret", wrong_tokens_per_minute=5) as server:
            wrong = [
                await speak(server, b"", start={**START, "token": f"no {n}"}, local_addr=(ELSEWHERE, 0))
                for n in range(200)
            ]
            header = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n\r\n"
            http = [(await exchange(server, header, where)).split()[1] for where in (ELSEWHERE, "127.0.0.1")]
            guessed = (await speak(server, b"", start=right, local_addr=(ELSEWHERE, 0)))[0]
            return (
                [messages[-1]["code"] for messages, _ in wrong],
                http,
                guessed,
                (await speak(server, b"", start=right))[1],
            )

    codes, http, guessed, other = asyncio.run(run())
    assert codes[:5] == ["unauthorized"] * 5
    assert set(codes[5:]) == {"throttled"}
    assert http == [b"429", b"200"]
    assert guessed[-1]["code"] == "throttled"
    assert other == 1000
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2  # the first at once, and the others when the server ends
    assert "1 refused: 1 unauthorized" in lines[0]
    assert f"most from {ELSEWHERE}" in lines[1]
    assert "secret" not in caplog.text


def test_malformed_requests_are_answered_without_a_traceback(serving, caplog):
    bad = [b"\x16\x03\x01\x02\x00\x01", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"]
    bad += [b"GET /stream HTTP/1.1\r\nHost: a\r\nOrigin: x\r\nOrigin: y\r\n\r\n"]
    bad += [b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nwords", b"GET / HTTP/1.1\r\na b: c\r\n\r\n"]
    key = (
        b"GET /stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    )
    bad += [key + b"Sec-WebSocket-Key: no\r\n\r\n"]

    async def run():
        async with serving(start_seconds=1.0) as server:
            answers = [await exchange(server, request) for request in bad]
            half = await exchange_half(server)
            return answers, half, (await speak(server, SPEECH[:9_600]))[1]

    answers, half, other = asyncio.run(run())
    assert answers[0] == b""  # no line end: closed when no request has come in time
    assert {answer.split(b"\r\n")[0] for answer in answers[1:]} == {b"HTTP/1.1 400 Bad Request"}
    assert b"Content-Security-Policy: " in answers[1]
    assert half == b""
    assert other == 1000
    assert not any(record.exc_info for record in caplog.records)
    assert len(caplog.records) <= 2


async def exchange_half(server):
    """A client that leaves in the middle of its request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write(b"GET / HT")
    writer.write_eof()
    return await asyncio.wait_for(reader.read(), 60)


def test_head_and_trace(serving):
    async def run():
        async with serving() as server:
            found = {}
            for method in ("GET", "HEAD", "TRACE", "OPTIONS"):
                for path in ("/", "/health", "/x", "/stream"):
                    request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nCookie: private\r\n\r\n".encode()
                    found[method, path] = await exchange(server, request)
            return found

    found = asyncio.run(run())
    statuses = {path: found["GET", path].split()[1] for path in ("/", "/health", "/x", "/stream")}
    assert statuses == {"/": b"200", "/health": b"200", "/x": b"404", "/stream": b"426"}
    for path in statuses:
        head, _, body = found["GET", path].partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        if path != "/health":  # its load changes
            assert found["HEAD", path] == head + b"\r\n\r\n"
        assert found["HEAD", path].endswith(b"\r\n\r\n")
        for method in ("TRACE", "OPTIONS"):
            assert found[method, path].startswith(b"HTTP/1.1 405")
            assert b"Allow: GET, HEAD" in found[method, path]
            assert b"private" not in found[method, path]


def test_a_proxy_states_the_address_of_its_clients(serving):
    """Only a configured one, and only the last address, which it has written itself."""
    metrics = Metrics()
    for proxies, expected in (((), ["127.0.0.1"] * 2), (("127.0.0.1",), ["10.0.0.9", "10.0.0.8"])):
        admission = Admission(ServeSettings(proxies=proxies), metrics)
        places = [admission.enter("127.0.0.1", lambda: None) for _ in range(2)]
        for place, header in zip(places, ("10.0.0.1, 10.0.0.9", "10.0.0.8"), strict=True):
            place.forwarded_for(header)
        assert [place.address for place in places] == expected
        assert admission.num_waiting == 2


def test_counts_return_to_nothing():
    now = [0.0]
    admission = Admission(ServeSettings(max_clients=2, max_waiting=4, token="right"), Metrics(), lambda: now[0])
    closed = []
    places = [admission.enter("10.0.0.1", lambda: closed.append(1)) for _ in range(9)]
    assert (admission.num_waiting, len(closed)) == (4, 5)
    places[-1].take_slot(0.0)
    assert (admission.num_waiting, admission.num_streams) == (3, 1)
    with pytest.raises(Refusal, match="busy"):
        places[-2].take_slot(9.0)
    for place in places:
        place.leave()
        place.give_slot_back()
    assert (admission.num_waiting, admission.num_streams) == (0, 0)
    for n in range(30):
        with pytest.raises(Refusal, match="unauthorized" if n < 10 else "throttled"):
            places[0].check_token("wrong")
    now[0] = 60.0
    places[0].check_token("right")
    admission.stopping = True
    with pytest.raises(Refusal, match="stopping"):
        admission.enter("10.0.0.1", lambda: None).take_slot(0.0)


def test_a_network_of_ipv6_is_one_address():
    assert group_of("2001:db8::1") == group_of("2001:db8::ffff") == "2001:db8::/64"
    assert group_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert group_of("fe80::1%eth0") == "fe80::/64"
    assert group_of("::1") == "::1"
    assert group_of("unknown") == "unknown"


def test_unfinished_handshakes_of_tls_are_bounded(serving, tmp_path, monkeypatch):
    """Silent connections to a port with TLS: the server keeps few, and goes on afterwards."""
    import ssl

    from asr_kd.serve import admission

    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    form = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    command = ["openssl", "req", *form, *names, "-keyout", "key.pem", "-out", "cert.pem"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    monkeypatch.setattr(admission, "MOST_HANDSHAKES", 8)

    async def run():
        limits = {"tls_cert": tmp_path / "cert.pem", "tls_key": tmp_path / "key.pem", "start_seconds": 1.0}
        async with serving(**limits) as server:
            held = [socket.create_connection(("127.0.0.1", port_of(server))) for _ in range(16)]
            await asyncio.sleep(0.3)
            kept = sum(not is_closed(one) for one in held)
            await asyncio.sleep(1.2)
            trusted = ssl.create_default_context(cafile=tmp_path / "cert.pem")
            code = (await speak(server, SPEECH[:9_600], ssl=trusted))[1]
            for one in held:
                one.close()
            return kept, code

    assert asyncio.run(asyncio.wait_for(run(), 60)) == (8, 1000)


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection on which it sends nothing."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_sends_everything_before_the_answer_is_served(serving):
    """The request, and the first messages in the same packet."""

    async def run():
        async with serving() as server:
            key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            head = b"GET /stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key
            start = json.dumps(START).encode()
            frame = bytes([0x81, 0x80 | len(start)]) + bytes(4) + start
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
            writer.write(head + frame)
            answer = await asyncio.wait_for(reader.readuntil(b"ready"), 60)
            writer.close()
            return answer

    assert b" 101 " in asyncio.run(run())
