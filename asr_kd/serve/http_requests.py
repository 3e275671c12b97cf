"""HTTP requests: the head parsed strictly, refused with a status and a reason, and the bytes of a response."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from asr_kd.serve.http_responses import HttpResponse

MOST_BYTES = 16_384
"""Longest head of a request: its first line and its headers."""

METHODS = ("GET", "HEAD")
"""Methods with a response."""

OTHER_METHODS = ("POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")

SINGLE = frozenset(
    {"host", "origin", "authorization", "content-length", "content-type", "transfer-encoding", "upgrade"}
    | {"sec-websocket-key", "sec-websocket-version"}
)
"""Headers that a request may have once (RFC 9110, RFC 6455)."""

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIRST_LINE = re.compile(rf"({_TOKEN}) ([!-~]+) HTTP/(\d)\.(\d)")
_HEADER = re.compile(rf"({_TOKEN}):([\t -~\x80-\xff]*)")


class BadRequest(Exception):
    """A request is refused.

    Args:
        status: HTTP status.
        reason: what was found.
        headers: further headers of the response.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.reason, self.headers = status, reason, headers or {}
        super().__init__(f"{status}: {reason}")


class HttpRequest(NamedTuple):
    """A request without a body."""

    method: str
    version: str  # 1.1 or 1.0
    path: str  # without the query
    headers: Mapping[str, str]  # by name in lower case; the values of a repeated header are joined by ", "

    @property
    def is_upgrade(self) -> bool:
        """Whether it requests a change to the websocket protocol."""
        upgrades = "websocket" in self.headers.get("upgrade", "").lower()
        return upgrades and self.method == "GET" and self.version == "1.1"


def parse_request(received: bytes) -> HttpRequest | None:
    """Parse the head of a request; None until it is complete.

    Args:
        received: everything that a client has sent.

    Raises:
        BadRequest: it is none, too long, of another method or version, has a header twice, or has a body.
    """
    head, end, _ = received.partition(b"\r\n\r\n")
    if len(head) > MOST_BYTES:
        raise BadRequest(431, f"a head of more than {MOST_BYTES} bytes")
    lines = head.decode("latin-1").split("\r\n")
    if "\n" in head.decode("latin-1").replace("\r\n", "") or not re.match(f"{_TOKEN}( |$)", lines[0] or "G"):
        raise BadRequest(400, "the first line is not METHOD PATH HTTP/1.1")
    if not end:
        return None
    first = _FIRST_LINE.fullmatch(lines[0])
    if first is None:
        raise BadRequest(400, "the first line is not METHOD PATH HTTP/1.1")
    method, target, major, minor = first.groups()
    if (major, minor) not in (("1", "1"), ("1", "0")):
        raise BadRequest(505, f"HTTP/{major}.{minor}; expected HTTP/1.1")
    headers = _parse_headers(lines[1:])
    if method not in METHODS:
        status = 405 if method in OTHER_METHODS else 501
        raise BadRequest(status, f"the method {method[:20]}; expected GET or HEAD", {"Allow": ", ".join(METHODS)})
    if minor == "1" and "host" not in headers:
        raise BadRequest(400, "no Host header")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise BadRequest(400, f"a body behind {method}")
    if not target.startswith("/"):
        raise BadRequest(400, "the target does not begin with /")
    return HttpRequest(method, f"{major}.{minor}", target.partition("?")[0], headers)


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadRequest(400, "a header that is not NAME: VALUE")
        name, value = found[1].lower(), found[2].strip(" \t")
        if name in headers and name in SINGLE:
            raise BadRequest(400, f"the header {found[1]} twice")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def response_bytes(response: HttpResponse, *, with_body: bool = True) -> bytes:
    """Return a response; the connection is closed behind it.

    Args:
        response: its status, headers and body.
        with_body: false for HEAD, whose headers are those of GET.
    """
    status = HTTPStatus(response.status)
    headers = {"Content-Type": response.content_type, "Content-Length": len(response.body), "Connection": "close"}
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in {**headers, **response.headers}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (response.body if with_body else b"")
