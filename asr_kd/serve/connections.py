"""HTTP responses and the check of origins; connections of the websockets library, and what a session sees of one."""

import contextlib
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from asr_kd.serve.admission import LOG_SECONDS, Admission
from asr_kd.serve.protocol import Refusal

STREAM, HEALTH, METRICS = "/stream", "/health", "/metrics"

TEXT = "text/plain; charset=utf-8"
_CSS, _SCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"
PAGES = {
    "/": "text/html; charset=utf-8",
    "/page.css": _CSS,
    **dict.fromkeys(("/page.js", "/capture.js", "/resampler.js", "/transport.js"), _SCRIPT),
}
"""Path → content type of each file of the page."""

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


def respond(
    connection: Any, status: int, text: str, content_type: str = TEXT, headers: Mapping[str, str] | None = None
) -> Any:
    """Return the library's response to a request that is no websocket."""
    response = connection.respond(status, text)
    del response.headers["Content-Type"]
    response.headers.update({"Content-Type": content_type, **SAFE, **(headers or {})})
    return response


def page_file(path: str) -> tuple[str, str] | None:
    """Return a part of the page and its content type; None for other paths."""
    if path not in PAGES:
        return None
    return files("asr_kd.serve").joinpath("assets", path.strip("/") or "index.html").read_text("utf-8"), PAGES[path]


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


SEND_BUFFER_BYTES = 65_536
"""Of the operating system, for each client: what is sent to one that does not read must not pile up there either."""

LINGER_NOT = struct.pack("ii", 1, 0)
"""To close a socket at once, with a reset."""


def connection_class(library: Any, admission: Admission) -> Any:
    """Return the library's connection, counted by `admission` from its first byte on."""

    class ClientConnection(library.ServerConnection):
        """A connection with its `place`; what is no HTTP request gets status 400, where the library only closes."""

        def __init__(self, protocol: Any, *arguments: Any, **options: Any) -> None:
            super().__init__(protocol, *arguments, **options)
            admission.begin_handshake()
            send_eof = protocol.send_eof

            def refuse_and_send_eof() -> None:
                error = protocol.handshake_exc
                if isinstance(error, library.InvalidMessage) and not isinstance(error.__cause__, EOFError):
                    self.place.refused("malformed-request")
                    reason = f"not a valid HTTP request ({error.__cause__}); expected GET or HEAD without a body"
                    response = protocol.reject(HTTPStatus.BAD_REQUEST, f"{reason}\n")
                    response.headers.update(SAFE)
                    protocol.writes.append(response.serialize())
                send_eof()

            protocol.send_eof = refuse_and_send_eof

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            peer = transport.get_extra_info("peername")
            self.place = admission.enter(str(peer[0]) if peer else "unknown", transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self.place.leave()
            super().connection_lost(exc)

    return ClientConnection


def bound_socket(client: socket.socket, seconds: float) -> None:
    """Bound what the operating system keeps for a client that does not take it, and for how long.

    Where nothing is taken, not even a ping, the system ends the connection after `seconds`. It would go on trying for
    minutes otherwise.
    """
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1_000 * seconds))


def library_logger() -> logging.Logger:
    """Return the library's logger: our own failures, at most one record a minute; not what clients do wrong."""
    logger = logging.getLogger(f"{__name__}.library")
    logger.filters = [_Failures()]
    return logger


class _Failures(logging.Filter):
    """Passes records of failures in our code, at most one in `LOG_SECONDS`."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        ours = any(name in record.getMessage() for name in ("handler failed", "process_request failed"))
        if not ours or record.created < self._next:
            return False
        self._next = record.created + LOG_SECONDS
        return True


class Gone(Exception):
    """The client has left."""


REASONS = {1009: "too-large", 1002: "malformed", 1007: "malformed"}
"""Code with which the library has ended a connection → code of the refusal"""


class Websocket:
    """A client's websocket as a session sees it; `closed` is the library's exception for those that have ended."""

    def __init__(self, connection: Any, closed: Any) -> None:
        self._connection, self._closed = connection, closed

    async def receive(self) -> str | bytes:
        """Return the next message.

        Raises:
            Refusal: the library has ended the connection because of what the client sent.
            Gone: the client has left.
        """
        try:
            message: str | bytes = await self._connection.recv()
        except self._closed as closed:
            if closed.sent is not None and not closed.rcvd_then_sent and closed.sent.code in REASONS:
                raise Refusal(REASONS[closed.sent.code], closed.sent.reason) from closed
            raise self._end(closed) from closed
        return message

    async def send(self, message: str) -> None:
        """Send a message.

        Raises:
            Refusal: the system has given up sending.
            Gone: the client has left.
        """
        try:
            await self._connection.send(message)
        except self._closed as closed:
            raise self._end(closed) from closed

    def _end(self, closed: Exception) -> Exception:
        if isinstance(closed.__cause__, OSError) and closed.__cause__.errno == errno.ETIMEDOUT:
            return Refusal("not-reading", "what was sent did not arrive in time")
        return Gone()

    async def close(self, code: int, reason: str) -> None:
        """Close with a reason of at most 123 bytes."""
        await self._connection.close(code, reason.encode()[:120].decode("utf-8", "ignore"))

    def abort(self) -> None:
        """Drop it, and what was not sent yet: the system would try for minutes to send it to one that does not read."""
        transport = self._connection.transport
        with contextlib.suppress(OSError):  # it is closed already
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        transport.abort()
