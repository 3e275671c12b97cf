"""The session of one client, from its first message to its last."""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine
from typing import Any

import numpy as np

from asr_kd.audio.waveform_reader import StreamResampler
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.serve import protocol
from asr_kd.serve.admission import Metrics, Place
from asr_kd.serve.connections import Gone, Websocket
from asr_kd.serve.protocol import Refusal, message_of
from asr_kd.serve.scheduler import LiveStream, Scheduler, StreamProgress
from asr_kd.serve.settings import ServeSettings

MOST_UNSENT = 64
"""Most messages that wait for a client; while they do, its audio is not read."""

BURST_SECONDS = 10.0
"""Messages of so many seconds at the allowed rate may arrive at once."""


class Outbox:
    """Messages to a client. A newer partial replaces an unsent one; finals are all kept."""

    def __init__(self) -> None:
        self._finals: deque[str] = deque()
        self._partial: str | None = None
        self._filled, self.room = asyncio.Event(), asyncio.Event()
        self.room.set()
        self.empty = asyncio.Event()
        self.empty.set()

    def add(self, message: str, *, partial: bool = False) -> None:
        """Queue a message; a final removes the partial before it."""
        self._partial = message if partial else None
        if not partial:
            self._finals.append(message)
        if len(self._finals) >= MOST_UNSENT:
            self.room.clear()
        self.empty.clear()
        self._filled.set()

    async def send_all(self, connection: Websocket, send_seconds: float) -> None:
        """Send until cancelled.

        Raises:
            Refusal: the client does not read.
            Gone: it has left.
        """
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._finals or self._partial is not None:
                if self._finals:
                    message = self._finals.popleft()
                else:
                    message, self._partial = self._partial or "", None
                try:
                    await asyncio.wait_for(connection.send(message), send_seconds)
                except TimeoutError:
                    raise Refusal("not-reading", f"nothing was read for {send_seconds:g} seconds") from None
                if len(self._finals) < MOST_UNSENT:
                    self.room.set()
            self.empty.set()


class Session:
    """Session of a client, whose `place` takes a slot once the start message is accepted."""

    def __init__(
        self,
        connection: Websocket,
        place: Place,
        scheduler: Scheduler,
        settings: ServeSettings,
        metrics: Metrics,
        model: str,
    ) -> None:
        self._connection, self._place, self._scheduler, self._settings = connection, place, scheduler, settings
        self._metrics, self._model = metrics, model
        self._outbox = Outbox()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stopping = asyncio.Event()
        self._allowed, self._counted_at = settings.messages_per_second * BURST_SECONDS, time.monotonic()

    async def run(self, authorized: bool) -> None:
        """Run the session; `authorized`: whether the token was given in the request."""
        live = None
        try:
            await self._start(authorized)
            self._place.take_slot(self._scheduler.load)
            live = self._scheduler.open(self._forward)
            await self._run_stream(live)
        except Refusal as refused:
            self._place.refused(refused.code)
            await self._refuse(refused)
        except Gone:
            self._metrics.refusals.labels("disconnected").inc()
        finally:
            if live is not None:
                self._scheduler.close(live)

    def finish(self) -> None:
        """Finish because the server stops; results of audio sent so far are still delivered."""
        self._stopping.set()

    def abandon(self) -> None:
        """End a stream whose results will not come: the model does not run any more."""
        if self._place.streams and not self._ended.done():
            self._ended.set_exception(Refusal("internal", "the server has ended"))

    def announce(self, message: str) -> None:
        """Queue a message to the client."""
        self._outbox.add(message)

    # -- the client's messages ---------------------------------------------------------------------------

    async def _start(self, authorized: bool) -> None:
        try:
            message = await asyncio.wait_for(self._connection.receive(), self._settings.start_seconds)
        except TimeoutError:
            raise Refusal("idle", f"no start message within {self._settings.start_seconds:g} seconds") from None
        start = protocol.parse_start(message)
        if not authorized:
            self._place.check_token(start.token or "")
        self._encoding, self._resampler = start.encoding, StreamResampler(start.sample_rate, SAMPLE_RATE)

    async def _run_stream(self, live: LiveStream) -> None:
        """Receive audio and send results until the stream has ended.

        Raises:
            Refusal, Gone: why it ended otherwise.
        """
        self._metrics.streams.inc()
        self._outbox.add(self._ready())
        writer = asyncio.create_task(self._outbox.send_all(self._connection, self._settings.send_seconds))
        try:
            early = await self._first_of(self._receive_audio(live), writer)
            if early is not None and not early.finishes:
                raise early
            rest = self._resampler.push(np.zeros(0, dtype=np.float32), last=True)
            if len(rest):
                await self._scheduler.put(live, rest)
            self._scheduler.end(live)
            await _either(self._send_results(live), writer)
            if early is not None:
                raise early
            await self._connection.close(1000, "done")
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _first_of(self, receiving: Coroutine[Any, Any, None], writer: "asyncio.Task[None]") -> Refusal | None:
        """Receive until the client ends, the server stops or an error occurs; return the error."""
        try:
            await _either(receiving, writer, self._ended, self._stopping.wait())
        except Refusal as refused:
            return refused
        if self._stopping.is_set():
            return Refusal("stopping", "the server stops", finishes=True)
        return None

    async def _receive_audio(self, live: LiveStream) -> None:
        longest = self._settings.stream_seconds
        while True:
            try:
                message = await asyncio.wait_for(self._connection.receive(), self._settings.idle_seconds)
            except TimeoutError:
                quiet = f"no message for {self._settings.idle_seconds:g} seconds"
                raise Refusal("idle", quiet, finishes=True) from None
            if isinstance(message, str):
                protocol.parse(protocol.End, message)
                return
            samples = self._resampler.push(protocol.samples_of(message, self._encoding))
            self._count(len(samples) / SAMPLE_RATE)
            if live.received_samples + len(samples) > longest * SAMPLE_RATE:
                raise Refusal("too-long", f"the stream is longer than {longest:g} seconds", finishes=True)
            if len(samples):
                await self._outbox.room.wait()
                await self._scheduler.put(live, samples)

    def _count(self, seconds: float) -> None:
        """Count a message with so many seconds of audio against the allowed rate (token bucket).

        Audio faster than real time allows for its own messages: the queue before the model slows it down.
        """
        rate, now = self._settings.messages_per_second, time.monotonic()
        refill = max(now - self._counted_at, seconds) * rate
        self._allowed = min(self._allowed + refill, rate * BURST_SECONDS) - 1
        self._counted_at = now
        if self._allowed < 0:
            raise Refusal("rate", f"more than {rate:g} messages a second; send larger packets, such as 100 ms")

    # -- the server's messages ---------------------------------------------------------------------------

    def _ready(self) -> str:
        settings = self._settings
        limits = {"frame_bytes": settings.frame_bytes, "stream_seconds": settings.stream_seconds}
        limits |= {"idle_seconds": settings.idle_seconds, "messages_per_second": settings.messages_per_second}
        timing = {
            "chunk_ms": round(1000 * self._scheduler.chunk_seconds),
            "lookahead_ms": self._scheduler.lookahead_ms,
        }
        fields = {"protocol": protocol.PROTOCOL, "model": self._model, "sample_rate": SAMPLE_RATE}
        return message_of("ready", **fields, **timing, limits=limits)

    def _forward(self, progress: StreamProgress) -> None:
        """Queue messages for the result of a round; runs on the loop."""
        if progress.refusal is not None and not self._ended.done():
            self._ended.set_exception(progress.refusal)
            return
        times = progress.decoded_seconds, progress.lag_seconds
        for utterance in progress.ended:
            self._metrics.utterances.inc()
            self._outbox.add(protocol.result_message("final", *times, **protocol.utterance_fields(utterance)))
        if progress.done and not self._ended.done():
            self._ended.set_result(None)
        elif not progress.done:
            self._outbox.add(protocol.result_message("partial", *times, text=progress.partial), partial=True)

    async def _send_results(self, live: LiveStream) -> None:
        """Wait until all results are sent."""
        await asyncio.shield(self._ended)
        self._outbox.add(message_of("done", seconds=round(live.received_samples / SAMPLE_RATE, 3)))
        await self._outbox.empty.wait()

    async def _refuse(self, refused: Refusal) -> None:
        if refused.code == "not-reading":  # it would not read the message
            self._connection.abort()
            return
        try:
            message = message_of("error", code=refused.code, message=refused.message)
            await asyncio.wait_for(self._connection.send(message), 1.0)
            await self._connection.close(refused.close_code, str(refused))
        except TimeoutError:
            self._connection.abort()
        except Gone:
            pass


async def _either(main: Coroutine[Any, Any, Any], *others: Any) -> None:
    """Wait for `main` or the first of the others to end, whose exception is raised; `main` is cancelled if it is late.

    The others are left alone.
    """
    task = asyncio.ensure_future(main)
    waits = [asyncio.ensure_future(other) for other in others]
    try:
        done, _ = await asyncio.wait([task, *waits], return_when=asyncio.FIRST_COMPLETED)
        for finished in done:
            finished.result()
    finally:
        for given, waiting in zip(others, waits, strict=True):
            if waiting is not given:
                waiting.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
