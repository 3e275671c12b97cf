"""Heads of HTTP requests: right ones are parsed, everything else has a status and a reason, never an exception."""

import contextlib
import random

import pytest

from asr_kd.serve.http_messages import MOST_BYTES, BadRequest, parse_request, plain_text, response_bytes

HOST = b"Host: localhost\r\n"


def test_a_request_is_parsed_once_its_head_is_complete():
    head = b"GET /stream?x=1 HTTP/1.1\r\n" + HOST + b"Via: a\r\nVIA:  b \r\nUpgrade: WebSocket\r\n\r\n"
    assert all(parse_request(head[:end]) is None for end in range(len(head) - 1))
    request = parse_request(head + b"\x81\x80")
    assert (request.method, request.path, request.headers["via"]) == ("GET", "/stream", "a, b")
    assert request.is_upgrade
    assert not parse_request(head.replace(b"GET", b"HEAD")).is_upgrade


@pytest.mark.parametrize(
    ("received", "status"),
    [
        (b"\x16\x03\x01\x02\x00", 400),  # TLS to a port without it
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET http://[ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Origin: a\r\norigin: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b" folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a b: c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"a: \x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 400),
        (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"POST / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
        (b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n", 501),
        (b"GET / HTTP/1.1\r\na: " + b" \t" * MOST_BYTES, 431),
    ],
)
def test_other_requests_have_a_status(received, status):
    with pytest.raises(BadRequest) as refused:
        parse_request(received)
    assert refused.value.status == status
    assert refused.value.headers == ({"Allow": "GET, HEAD"} if status in (405, 501) else {})


def test_random_bytes_and_mutations_never_raise_anything_else():
    draw = random.Random(1)
    valid = b"GET /stream HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    for _ in range(3_000):
        changed = bytearray(valid if draw.random() < 0.8 else draw.randbytes(draw.randrange(200)))
        for _ in range(draw.randrange(4)):
            if changed:
                changed[draw.randrange(len(changed))] = draw.randrange(256)
        with contextlib.suppress(BadRequest):
            parse_request(bytes(changed))


def test_a_response_to_head_has_the_headers_of_get():
    whole, head = (response_bytes(plain_text(200, "text"), with_body=body) for body in (True, False))
    assert whole == head + b"text\n"
    assert b"Content-Length: 5\r\n" in head
