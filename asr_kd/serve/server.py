"""The server: sockets, TLS, admission, and an orderly stop. The only file that imports websockets."""

import asyncio
import json
import resource
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from asr_kd.errors import ServeError, import_extra
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.serve.admission import MOST_HANDSHAKES, Admission, Metrics, Place
from asr_kd.serve.connections import (
    HEALTH,
    METHODS,
    METRICS,
    SINGLE,
    STREAM,
    Websocket,
    allowed_origin,
    bound_socket,
    connection_class,
    library_logger,
    page_file,
    respond,
)
from asr_kd.serve.protocol import Refusal, message_of
from asr_kd.serve.scheduler import Scheduler
from asr_kd.serve.session import Session
from asr_kd.serve.settings import ServeSettings

QUEUED_FRAMES = 4
"""Messages that the library reads ahead; then it stops reading, and TCP slows the client down."""

CLOSE_SECONDS = 2.0
"""For the other side to confirm the end."""


class Server:
    """Server of one model; an asynchronous context in which it accepts connections.

    Raises:
        CheckpointError: a full-context model.
        MissingExtraError: the extra `serve` is not installed.
    """

    def __init__(self, recognizer: Recognizer, settings: ServeSettings, name: str = "model") -> None:
        self._library = import_extra("websockets", "serve")
        self.settings, self.metrics, self._name = settings, Metrics(), name
        self._tls = _tls_context(settings)
        self._scheduler = Scheduler(recognizer, settings, self.metrics)
        self._admission = Admission(settings, self.metrics)
        self._sessions: set[Session] = set()
        self.metrics.clients.set_function(lambda: self._scheduler.num_streams)
        self.metrics.load.set_function(lambda: self._scheduler.load)

    @property
    def address(self) -> str:
        port = self._sockets.sockets[0].getsockname()[1]
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"{'https' if self._tls else 'http'}://{host}:{port}/"

    async def __aenter__(self) -> Self:
        """Open the address.

        Raises:
            ServeError: the address is taken, or not ours.
        """
        settings = self.settings
        _raise_open_files(settings.max_clients + settings.max_waiting + MOST_HANDSHAKES + 64)
        connections = connection_class(self._library, self._admission)
        self._work = asyncio.create_task(self._scheduler.run())
        try:
            self._sockets = await self._library.serve(
                self._connected,
                settings.host,
                settings.port,
                ssl=self._tls,
                create_connection=connections,
                process_request=self._process_request,
                logger=library_logger(),
                open_timeout=settings.start_seconds,
                compression=None,  # audio hardly shrinks, and each client's window would cost memory
                max_size=settings.frame_bytes,
                max_queue=QUEUED_FRAMES,
                ping_interval=settings.ping_seconds,
                ping_timeout=None,  # a reply waits behind the audio that a fast client has sent
                close_timeout=CLOSE_SECONDS,
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
        self._admission.stopping = True
        for session in self._sessions:
            session.announce(message_of("stopping", seconds=grace_seconds))
        await self._until_empty(grace_seconds)
        for session in self._sessions:
            session.finish()
        await self._until_empty(self.settings.send_seconds + CLOSE_SECONDS)
        for session in self._sessions:
            session.abandon()
        self._sockets.close()
        self._admission.close()
        self._work.cancel()
        await asyncio.gather(self._work, self._sockets.wait_closed(), return_exceptions=True)

    async def _until_empty(self, seconds: float) -> None:
        end = asyncio.get_running_loop().time() + seconds
        while self._admission.num_streams and asyncio.get_running_loop().time() < end and not self._work.done():
            await asyncio.sleep(0.02)

    # -- requests and clients -----------------------------------------------------------------------------

    def _process_request(self, connection: Any, request: Any) -> Any:
        """Return the library's response to plain HTTP; None opens a websocket."""
        connection.place.forwarded_for(", ".join(request.headers.get_all("X-Forwarded-For")))
        response = self._http_response(request, connection)
        if response is None:
            connection.place.opened = True
        elif request.method == "HEAD":
            response.body = b""
        return response

    def _http_response(self, request: Any, connection: Any) -> Any:
        place: Place = connection.place

        def line(status: int, text: str, **headers: str) -> Any:
            return respond(connection, status, f"{text}\n", headers=headers)

        twice = [name for name in SINGLE if len(request.headers.get_all(name)) > 1]
        if twice:
            place.refused("malformed-request")
            return line(400, f"the header {twice[0]} twice")
        if request.method not in METHODS:
            place.refused("malformed-request")
            allowed = ", ".join(METHODS)
            return line(405, f"the method {request.method[:20]}; expected {allowed}", Allow=allowed)
        path = request.path.partition("?")[0]
        if path == HEALTH:
            state = "stopping" if self._admission.stopping else "failed" if self._work.done() else "ok"
            report = {"status": state, "model": self._name, "clients": self._scheduler.num_streams}
            report |= {"max_clients": self.settings.max_clients, "load": round(self._scheduler.load, 3)}
            return respond(connection, 200 if state == "ok" else 503, json.dumps(report), "application/json")
        if path not in (METRICS, STREAM):
            page = page_file(path)
            return respond(connection, 200, *page) if page else line(404, "there is nothing here")
        if path == STREAM:
            if request.method != "GET" or "websocket" not in request.headers.get("Upgrade", "").lower():
                return line(426, "a websocket is expected here", Upgrade="websocket")
            origin, local = request.headers.get("Origin"), connection.local_address[:2]
            if not allowed_origin(origin, local, self._tls is not None, self.settings.origins):
                place.refused("origin")
                return line(403, f"origin {origin!r} is not allowed; start the server with --origin {origin}")
        try:
            if "Authorization" in request.headers or path == METRICS:
                place.check_token(request.headers.get("Authorization", "").removeprefix("Bearer "))
        except Refusal as refused:
            place.refused(refused.code)
            if refused.code == "throttled":
                return line(429, str(refused), **{"Retry-After": "60"})
            return line(401, str(refused), **{"WWW-Authenticate": "Bearer"})
        if path == METRICS:
            return respond(connection, 200, self.metrics.text(), self.metrics.content_type)
        return None

    async def _connected(self, connection: Any) -> None:
        bound_socket(connection.transport.get_extra_info("socket"), 2 * self.settings.ping_seconds)
        websocket = Websocket(connection, self._library.ConnectionClosed)
        session = Session(websocket, connection.place, self._scheduler, self.settings, self.metrics, self._name)
        self._sessions.add(session)
        try:
            await session.run(authorized="Authorization" in connection.request.headers)
        finally:
            connection.place.give_slot_back()
            self._sessions.discard(session)


async def serve_forever(server: Server, stop: asyncio.Event, on_start: Callable[[str], None]) -> None:
    """Serve until `stop` is set, then finish the streams; `on_start` is called with the address.

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


def _raise_open_files(needed: int) -> None:
    """Raise the process' limit of open files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
