"""The server: sockets, TLS, admission, and an orderly stop. The only file that imports websockets."""

import asyncio
import contextlib
import errno
import importlib
import json
import socket
import ssl
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from asr_kd.errors import MissingExtraError, ServeError
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.serve.http_responses import (
    HEALTH,
    METRICS,
    STREAM,
    HttpResponse,
    Metrics,
    allowed_origin,
    page_file,
    plain_text,
)
from asr_kd.serve.protocol import Refusal, stopping_message
from asr_kd.serve.scheduler import Scheduler
from asr_kd.serve.session import Session, same_secret
from asr_kd.serve.settings import ServeSettings

QUEUED_FRAMES = 4
"""Messages that the library reads ahead; then it stops reading, and TCP slows the client down."""

SEND_BUFFER_BYTES = 65_536
"""Of the operating system, for each client: what is sent to one that does not read must not pile up there either."""

LINGER_NOT = struct.pack("ii", 1, 0)
"""To close a socket at once, with a reset."""

GOODBYE_SECONDS = 2.0
"""For the other side to confirm the end."""


class Server:
    """Server of one model; an asynchronous context in which it accepts connections.

    Args:
        recognizer: of a streaming model.
        settings: address and limits.
        name: of the model, sent to clients.

    Raises:
        CheckpointError: a full-context model.
        MissingExtraError: the extra `serve` is not installed.
    """

    def __init__(self, recognizer: Recognizer, settings: ServeSettings, name: str = "model") -> None:
        self._library = _websockets()
        self.settings, self.metrics, self._name = settings, Metrics(), name
        self._tls = _tls_context(settings)
        self._scheduler = Scheduler(recognizer, settings, self.metrics)
        self._sessions: set[Session] = set()
        self._connections = 0
        self._stopping = False
        self.metrics.clients.set_function(lambda: self._scheduler.num_streams)
        self.metrics.load.set_function(lambda: self._scheduler.load)

    @property
    def address(self) -> str:
        """URL of the page."""
        port = self._listener.sockets[0].getsockname()[1]
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{'https' if self._tls else 'http'}://{host}:{port}/"

    async def __aenter__(self) -> Self:
        """Open the address.

        Raises:
            ServeError: the address is taken, or not ours.
        """
        settings = self.settings
        self._work = asyncio.create_task(self._scheduler.run())
        try:
            self._listener = await self._library.serve(
                self._connected,
                settings.host,
                settings.port,
                ssl=self._tls,
                process_request=self._requested,
                compression=None,  # audio hardly shrinks, and each client's window would cost memory
                max_size=settings.frame_bytes,
                max_queue=QUEUED_FRAMES,
                ping_interval=settings.ping_seconds,
                ping_timeout=settings.ping_seconds,
                close_timeout=GOODBYE_SECONDS,
                server_header=None,
            )
        except OSError as error:
            self._work.cancel()
            raise ServeError(
                f"cannot open the address ({error.strerror or error})",
                where=f"{settings.host}:{settings.port}",
                remedy="Choose another --port (0 takes any free one) or --host",
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the streams and stop."""
        await self.stop(0.0)

    async def failure(self) -> None:
        """Wait forever, or raise the error that ended the thread of the model."""
        await asyncio.shield(self._work)

    async def stop(self, grace_seconds: float) -> None:
        """Accept no new streams, let open ones continue for a while, then finish them and send all results."""
        self._stopping = True
        for session in self._sessions:
            session.announce(stopping_message(grace_seconds))
        await self._until_empty(grace_seconds)
        for session in self._sessions:
            session.finish()
        await self._until_empty(self.settings.send_seconds + GOODBYE_SECONDS)
        self._listener.close()
        self._work.cancel()
        await asyncio.gather(self._work, self._listener.wait_closed(), return_exceptions=True)

    async def _until_empty(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while self._sessions and asyncio.get_running_loop().time() < end and not self._work.done():
            await asyncio.sleep(0.02)

    # -- admission --------------------------------------------------------------------------------------

    def _requested(self, connection: Any, request: Any) -> Any:
        """Respond to plain HTTP; None continues to a websocket."""
        result = self._http_response(connection, request)
        if result is None:
            return None
        response = connection.respond(result.status, "")
        del response.headers["Content-Type"], response.headers["Content-Length"]
        for name, value in {"Content-Type": result.content_type, **result.headers}.items():
            response.headers[name] = value
        response.headers["Content-Length"] = str(len(result.body))
        response.body = result.body
        return response

    def _http_response(self, connection: Any, request: Any) -> HttpResponse | None:
        path = urlsplit(request.path).path
        if path == HEALTH:
            return self._health()
        if path == METRICS:
            if not self._has_token(request):
                return plain_text(401, "unauthorized: Authorization: Bearer TOKEN is missing or wrong")
            return HttpResponse(200, self.metrics.content_type, self.metrics.text())
        if path != STREAM:
            return page_file(path) or plain_text(404, "there is nothing here")
        return self._rejected(connection, request)

    def _health(self) -> HttpResponse:
        state = "stopping" if self._stopping else "failed" if self._work.done() else "ok"
        report = {"status": state, "model": self._name, "clients": self._scheduler.num_streams}
        report |= {"max_clients": self.settings.max_clients, "load": round(self._scheduler.load, 3)}
        return HttpResponse(200 if state == "ok" else 503, "application/json", json.dumps(report).encode())

    def _rejected(self, connection: Any, request: Any) -> HttpResponse | None:
        """Refuse before a websocket is opened: other origins, wrong tokens, too many connections."""
        origin = request.headers.get("Origin")
        if not allowed_origin(origin, connection.local_address[:2], self._tls is not None, self.settings.origins):
            self.metrics.refusals.labels("origin").inc()
            return plain_text(403, f"origin {origin!r} is not allowed; start the server with --origin {origin}")
        if "Authorization" in request.headers and not self._has_token(request):
            self.metrics.refusals.labels("unauthorized").inc()
            return plain_text(401, "unauthorized: the token is wrong")
        if self._connections >= 2 * self.settings.max_clients + 8:  # too many to open a websocket for a refusal
            self.metrics.refusals.labels("too-many-clients").inc()
            return plain_text(503, "too many clients")
        return None

    def _has_token(self, request: Any) -> bool:
        if self.settings.token is None:
            return True
        return same_secret(request.headers.get("Authorization", ""), f"Bearer {self.settings.token}")

    async def _connected(self, connection: Any) -> None:
        _bound(connection.transport.get_extra_info("socket"), 2 * self.settings.ping_seconds)
        websocket = Websocket(connection, self._library)
        session = Session(websocket, self._scheduler, self.settings, self.metrics, self._name)
        refusal = self._refusal()
        if refusal is None:
            self._sessions.add(session)
        self._connections += 1
        try:
            authorized = "Authorization" in connection.request.headers and self._has_token(connection.request)
            await session.run(authorized, refusal)
        finally:
            self._connections -= 1
            self._sessions.discard(session)

    def _refusal(self) -> Refusal | None:
        settings = self.settings
        if self._stopping:
            return Refusal("stopping", "the server stops")
        if len(self._sessions) >= settings.max_clients:
            return Refusal(
                "too-many-clients",
                f"as many streams as there may be ({settings.max_clients}) are open; try again later",
            )
        if self._scheduler.load > settings.busy_load:
            return Refusal("busy", "the model is busy with the streams that are open; try again later")
        return None


def _bound(client: socket.socket, seconds: float) -> None:
    """Bound what the operating system keeps for a client that does not take it, and for how long.

    The library notices such a client by a ping, after `seconds` at the latest, and closes the socket. The system would
    retry for minutes, and the client might not notice that it was dropped.
    """
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1_000 * seconds))


class Websocket:
    """A client's websocket, as a `Connection` of sessions.

    Args:
        connection: the library's.
        library: the library.
    """

    def __init__(self, connection: Any, library: Any) -> None:
        self._connection, self._closed = connection, library.ConnectionClosed

    async def receive(self) -> str | bytes | None:
        """The next message; None when the client has gone.

        Raises:
            Refusal: the library has ended the connection because of what the client sent.
        """
        try:
            message: str | bytes = await self._connection.recv()
        except self._closed as closed:
            code = closed.sent.code if closed.sent is not None and not closed.rcvd_then_sent else None
            if code == 1009:
                raise Refusal("too-large", closed.sent.reason) from closed
            if code in (1002, 1007):
                raise Refusal("malformed", closed.sent.reason) from closed
            if code == 1011:  # no reply to a ping
                raise Refusal("not-reading", closed.sent.reason) from closed
            self._raise_if_not_read(closed)
            return None
        return message

    async def send(self, message: str) -> bool:
        """Send; False when the client has gone.

        Raises:
            Refusal: the system has given up sending.
        """
        try:
            await self._connection.send(message)
        except self._closed as closed:
            self._raise_if_not_read(closed)
            return False
        return True

    def _raise_if_not_read(self, closed: Exception) -> None:
        if isinstance(closed.__cause__, OSError) and closed.__cause__.errno == errno.ETIMEDOUT:
            raise Refusal("not-reading", "what was sent did not arrive in time") from closed

    async def close(self, code: int, reason: str) -> None:
        """Close with a reason of at most 123 bytes."""
        await self._connection.close(code, reason.encode()[:120].decode("utf-8", "ignore"))

    def abort(self) -> None:
        """Drop it, and what was not sent yet: the system would try for minutes to send it to one that does not read."""
        transport = self._connection.transport
        with contextlib.suppress(OSError):  # it is closed already
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        transport.abort()


async def serve_forever(server: Server, stop: asyncio.Event, on_start: Callable[[str], None]) -> None:
    """Serve until `stop` is set, then finish the streams.

    Args:
        server: not yet started.
        stop: set by a signal, for example.
        on_start: called with the address when the server accepts connections.

    Raises:
        ServeError: the address cannot be opened.
    """
    async with server:
        on_start(server.address)
        stopped, failed = asyncio.create_task(stop.wait()), asyncio.create_task(server.failure())
        try:
            await asyncio.wait([stopped, failed], return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                failed.result()
            await server.stop(server.settings.grace_seconds)
        finally:
            stopped.cancel()
            failed.cancel()


def _websockets() -> Any:
    """The library: its asynchronous server, and the exception for connections that have ended."""
    try:
        library = importlib.import_module("websockets.asyncio.server")
        importlib.import_module("websockets.exceptions")
    except ImportError as error:
        raise MissingExtraError("websockets", "serve") from error
    return _Library(library.serve, importlib.import_module("websockets.exceptions").ConnectionClosed)


class _Library:
    def __init__(self, serve: Any, connection_closed: Any) -> None:
        self.serve, self.ConnectionClosed = serve, connection_closed


def _tls_context(settings: ServeSettings) -> ssl.SSLContext | None:
    """TLS context of the settings; None without a certificate.

    Raises:
        ServeError: the certificate or its key cannot be used.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ServeError(
            f"cannot be used ({error})", where=settings.tls_cert, expected="a certificate and its key, in PEM"
        ) from error
    return context
