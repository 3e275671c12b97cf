"""HTTP responses (page, health, metrics), the check of origins, and the metrics themselves.

Only this file imports prometheus_client."""

import ipaddress
from collections.abc import Mapping, Sequence
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


METHODS = ("GET", "HEAD")
"""Methods with a response."""

SINGLE = frozenset(
    {"host", "origin", "authorization", "content-length", "content-type", "transfer-encoding", "upgrade"}
    | {"sec-websocket-key", "sec-websocket-version"}
)
"""Headers that a request may have once (RFC 9110, RFC 6455)."""


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
