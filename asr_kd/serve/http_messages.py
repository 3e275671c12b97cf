"""HTTP: requests parsed strictly, responses (page, health, metrics), the check of origins, and the metrics themselves.

Only this file imports prometheus_client."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import urlsplit

from asr_kd.errors import import_extra

STREAM, HEALTH, METRICS = "/stream", "/health", "/metrics"

PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/capture.js": ("capture.js", "text/javascript; charset=utf-8"),
    "/resampler.js": ("resampler.js", "text/javascript; charset=utf-8"),
    "/transport.js": ("transport.js", "text/javascript; charset=utf-8"),
}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

SAFE = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
"""Headers of every response."""


class HttpResponse(NamedTuple):
    """Response to a request that is no websocket."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = SAFE


def plain_text(status: int, text: str, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a response of one line of text, with further headers."""
    return HttpResponse(status, "text/plain; charset=utf-8", f"{text}\n".encode(), {**SAFE, **(headers or {})})


def page_file(path: str) -> HttpResponse | None:
    """Return a part of the page; None for other paths."""
    if path not in PAGES:
        return None
    name, content_type = PAGES[path]
    return HttpResponse(200, content_type, files("asr_kd.serve").joinpath("assets", name).read_bytes())


def allowed_origin(origin: str | None, local: tuple[str, int], tls: bool, others: Sequence[str]) -> bool:
    """Return whether a page from `origin` may open a stream.

    Our own page has the address of our side of the connection. The Host header proves nothing: a page of another site
    whose name resolves to this machine sends a matching one.

    Args:
        origin: the header; None from clients other than browsers.
        local: address and port of our side of the connection.
        tls: whether the connection is encrypted.
        others: further allowed origins.
    """
    if origin is None or origin.rstrip("/") in {other.rstrip("/") for other in others}:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme != ("https" if tls else "http") or port != local[1]:
        return False
    here = _address(local[0])
    if here is not None and here.is_loopback:
        there = _address(host)
        return host == "localhost" or (there is not None and there.is_loopback)
    return here is not None and _address(host) == here


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        client = import_extra("prometheus_client", "serve", "prometheus-client")
        self._client, self._registry = client, client.CollectorRegistry()
        shared = {"registry": self._registry}
        self.clients = client.Gauge("asr_kd_clients", "Streams that are open", **shared)
        self.load = client.Gauge("asr_kd_load", "Time that a step for all streams takes, in chunks of audio", **shared)
        self.streams = client.Counter("asr_kd_streams", "Streams that were opened", **shared)
        self.refusals = client.Counter("asr_kd_refusals", "Streams that were refused or ended", ["reason"], **shared)
        self.audio_seconds = client.Counter("asr_kd_audio_seconds", "Audio that was decoded", **shared)
        self.utterances = client.Counter("asr_kd_utterances", "Final utterances that were sent", **shared)
        self.batch = client.Histogram("asr_kd_step_streams", "Streams in a step", buckets=BATCHES, **shared)
        self.step_seconds = client.Histogram("asr_kd_step_seconds", "Duration of a step", buckets=SECONDS, **shared)
        self.lag_seconds = client.Histogram(
            "asr_kd_lag_seconds", "From the packet that completes a chunk to its text", buckets=SECONDS, **shared
        )

    @property
    def content_type(self) -> str:
        return str(self._client.exposition.CONTENT_TYPE_PLAIN_0_0_4)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(self._client.generate_latest(self._registry))


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
    """A request is refused: a status, what was found, and further headers of the response."""

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
    """Return a response, without its body for HEAD; the connection is closed behind it."""
    status = HTTPStatus(response.status)
    headers = {"Content-Type": response.content_type, "Content-Length": len(response.body), "Connection": "close"}
    lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
    lines += [f"{name}: {value}" for name, value in {**headers, **response.headers}.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (response.body if with_body else b"")
