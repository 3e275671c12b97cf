"""Scheduler: one step of the model for all streams with a complete chunk.

The event loop passes packets on and receives progress; features, model and decoding run in one thread beside it. A step
takes the streams that are ready and waits for no others, so batches grow with the load. Each stream gets one chunk per
round, the longest waiting first, so a file sent at once takes no more than a microphone.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.runtime.recognizer import Recognizer
from asr_kd.runtime.streaming import EndedUtterance, StreamingRecognizer, step_together
from asr_kd.serve.admission import Metrics
from asr_kd.serve.protocol import Refusal
from asr_kd.serve.settings import ServeSettings

LOAD_SECONDS = 2.0
"""Time over which the load is averaged."""


class StreamProgress(NamedTuple):
    """Result of a round for one stream."""

    partial: str
    ended: list[EndedUtterance]
    decoded_seconds: float
    lag_seconds: float  # since the packet that completed the chunk arrived
    done: bool = False  # all audio of a stream that has ended is decoded
    refusal: Refusal | None = None


class LiveStream:
    """One client's stream, cut at endpoints. The event loop owns its packets; the current round owns the rest.

    `on_progress` is called on the loop with the result of each round.
    """

    def __init__(self, stream: StreamingRecognizer, on_progress: Callable[[StreamProgress], None]) -> None:
        self.stream, self.on_progress = stream, on_progress
        self.packets: deque[tuple[np.ndarray, float]] = deque()
        self.pending_samples = self.received_samples = 0
        self.missing_samples = stream.missing_samples  # of the chunk at hand, as the last round left it
        self.room = asyncio.Event()
        self.room.set()
        self.ends = self.flushed = self.done = False
        self.ends_at = 0.0
        self._taken: list[tuple[np.ndarray, float]] = []
        self._completed_at = 0.0  # arrival of the packet that completed the chunk at hand

    @property
    def has_work(self) -> bool:
        """Whether a complete chunk or the end is queued; read between rounds."""
        return not self.done and (self.ends or self.pending_samples >= self.missing_samples)

    def take_packets(self) -> None:
        """Pass the packets of a chunk to the next round."""
        missing = self.missing_samples
        while self.packets and missing > 0:
            packet = self.packets.popleft()
            self._taken.append(packet)
            self.pending_samples -= len(packet[0])
            missing -= len(packet[0])

    def queue_packets(self) -> None:
        """Queue the packets that were passed on; runs in the thread."""
        if self._taken:
            packets, arrivals = zip(*self._taken, strict=True)
            self._taken = []
            self._completed_at = arrivals[-1]
            self.stream.queue(np.concatenate(packets))
        if self.ends and not self.packets and not self.stream.is_ready:
            self.stream.queue_end()
            self.flushed = True
            self._completed_at = self.ends_at

    def progress(self, finished: bool) -> StreamProgress:
        """Return the result after a round, the last one when `finished`; runs in the thread."""
        decoded, lag = self.stream.decoded_seconds, time.monotonic() - self._completed_at
        if not finished:
            return StreamProgress(self.stream.partial(), self.stream.take_utterances(), decoded, lag)
        self.stream.final()
        ended = [*self.stream.take_utterances(), self.stream.next_utterance()]
        return StreamProgress("", [item for item in ended if item.text], decoded, lag, done=True)


class Scheduler:
    """Runs one streaming model for all streams."""

    def __init__(self, recognizer: Recognizer, settings: ServeSettings, metrics: Metrics) -> None:
        self._recognizer, self._settings, self._metrics = recognizer, settings, metrics
        context = recognizer.stream().backend.context  # refuses a full-context model
        self.chunk_seconds = (context.chunk_frames if context else 1) * FRAME_SHIFT_MS / 1000
        self.lookahead_ms = context.lookahead_ms if context else 0
        self._live: dict[LiveStream, None] = {}  # in the order in which they were last served
        self._work = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._load, self._measured_at = 0.0, time.monotonic()

    @property
    def load(self) -> float:
        """Time of a round for all streams, in chunks; above 1 streams fall behind. It decays without active streams."""
        return self._load * math.exp((self._measured_at - time.monotonic()) / LOAD_SECONDS)

    @property
    def num_streams(self) -> int:
        """Streams that are open."""
        return len(self._live)

    def open(self, on_progress: Callable[[StreamProgress], None]) -> LiveStream:
        """Open a stream."""
        live = LiveStream(self._recognizer.stream(self._settings.endpoint, cut_at_endpoints=True), on_progress)
        self._live[live] = None
        return live

    def close(self, live: LiveStream) -> None:
        """Close a stream, finished or not."""
        live.done = True
        self._live.pop(live, None)

    async def put(self, live: LiveStream, samples: np.ndarray) -> None:
        """Queue a packet; waits while too much audio is queued, which keeps further packets in the network."""
        await live.room.wait()
        live.packets.append((samples, time.monotonic()))
        live.received_samples += len(samples)
        live.pending_samples += len(samples)
        if live.has_work:
            self._work.set()
            if live.pending_samples > self._settings.pending_seconds * SAMPLE_RATE:
                live.room.clear()

    def end(self, live: LiveStream) -> None:
        """End a stream; `on_progress` is called with `done` later."""
        if not live.ends:
            live.ends, live.ends_at = True, time.monotonic()
            self._work.set()

    async def run(self) -> None:
        """Run rounds until cancelled."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._warm_up)
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while chosen := self._choose():
                    begun = time.monotonic()
                    results = await loop.run_in_executor(self._thread, self._round, chosen)
                    self._measure(time.monotonic() - begun, len(chosen))
                    self._make_room(chosen)
                    for live, progress in results:
                        self._report(live, progress)
        finally:
            self._thread.shutdown(wait=True)

    def _warm_up(self) -> None:
        """Run the first steps of the model, which are slow, before clients connect."""
        for streams in {1, 2, self._settings.max_batch}:
            opened = [self._recognizer.stream() for _ in range(streams)]
            for stream in opened:
                stream.queue(np.zeros(stream.missing_samples, dtype=np.float32))
            step_together([stream for stream in opened if stream.is_ready])

    def _choose(self) -> list[LiveStream]:
        """Choose the streams of the next round and move them to the end of the queue."""
        chosen = [live for live in self._live if live.has_work][: self._settings.max_batch]
        for live in chosen:
            self._live[live] = self._live.pop(live)
            live.take_packets()
        return chosen

    def _make_room(self, served: list[LiveStream]) -> None:
        """Accept packets again from streams whose queue is short."""
        for live in served:
            if live.pending_samples <= self._settings.pending_seconds * SAMPLE_RATE / 2 or not live.has_work:
                live.room.set()

    def _round(self, chosen: list[LiveStream]) -> list[tuple[LiveStream, StreamProgress]]:
        """Run a round in the thread; an error of one stream affects that stream only."""
        for live in chosen:
            live.queue_packets()
        ready = [live for live in chosen if live.stream.is_ready]
        begun = time.monotonic()
        failed = step_together([live.stream for live in ready])
        if ready:
            self._metrics.step_seconds.observe(time.monotonic() - begun)
            self._metrics.batch.observe(len(ready))
            self._metrics.audio_seconds.inc(len(ready) * self.chunk_seconds)
        results = [
            # What was found, without the model's path on this machine.
            (ready[place], StreamProgress("", [], 0.0, 0.0, refusal=Refusal("internal", error.found)))
            for place, error in failed.items()
        ]
        broken = {live for live, _ in results}
        for live in chosen:
            finished = live.flushed and not live.stream.is_ready  # the end may come during the step
            if live not in broken and (finished or live in ready):
                results.append((live, live.progress(finished)))
            live.missing_samples = live.stream.missing_samples
        return results

    def _report(self, live: LiveStream, progress: StreamProgress) -> None:
        if live not in self._live:
            return  # it has gone meanwhile
        live.done = progress.done or progress.refusal is not None
        self._metrics.lag_seconds.observe(progress.lag_seconds)
        live.on_progress(progress)

    def _measure(self, seconds: float, served: int) -> None:
        """Update the load: time of a round for all streams with queued audio, averaged over time."""
        everyone = max(sum(live.has_work for live in self._live), served) / max(served, 1)
        now = time.monotonic()
        kept = math.exp((self._measured_at - now) / LOAD_SECONDS)
        self._load = kept * self._load + (1 - kept) * seconds * everyone / self.chunk_seconds
        self._measured_at = now
