"""Responses to plain HTTP requests (the page, health, metrics), and the check of origins."""

import ipaddress
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import NamedTuple
from urllib.parse import urlsplit

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


class Answer(NamedTuple):
    """Response to a request that is no websocket."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = SAFE


def plain(status: int, text: str) -> Answer:
    """Return a response of one line of text."""
    return Answer(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def page(path: str) -> Answer | None:
    """Return a part of the page; None for other paths."""
    if path not in PAGES:
        return None
    name, content_type = PAGES[path]
    return Answer(200, content_type, files("asr_kd.serve").joinpath("assets", name).read_bytes())


def allowed_origin(origin: str | None, local: tuple[str, int], tls: bool, others: Sequence[str]) -> bool:
    """Return whether a page from `origin` may open a stream.

    Our own page has the address of our side of the connection. The Host header proves nothing: a foreign page whose
    name resolves to this machine sends a matching one.

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
