"""Admission: connections and streams are counted by address, tokens are checked, and refusals are logged in bounds.

`Metrics` are the counters that the server publishes; only this file imports prometheus_client.

A connection waits until its start message is accepted: only then does it take one of the slots for streams. Waiting
connections are bounded too, and the address with most of them loses its oldest, so silent ones exclude no others.
"""

import hmac
import ipaddress
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from asr_kd.errors import import_extra
from asr_kd.serve.protocol import Refusal
from asr_kd.serve.settings import ServeSettings

LOG_SECONDS = 60.0
"""At most one line about refusals in this time."""

MOST_ADDRESSES = 10_000
"""Addresses whose wrong tokens are remembered; of more, the oldest are forgotten."""

MOST_HANDSHAKES = 512
"""TLS handshakes that may be unfinished."""

_log = logging.getLogger(__name__)

Clock = Callable[[], float]


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

    def text(self) -> str:
        """Return all metrics in Prometheus' text format."""
        return str(self._client.generate_latest(self._registry).decode())


class Admission:
    """Counts of one server; each of its connections is a `Place`."""

    def __init__(self, settings: ServeSettings, metrics: Metrics, clock: Clock = time.monotonic) -> None:
        self.settings, self.clock, self._metrics = settings, clock, metrics
        self._waiting: dict[str, dict[Place, None]] = {}  # by address, the oldest first
        self.streams: Counter[str] = Counter()
        self.wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()  # wrong tokens left, and when that was
        self._handshakes: deque[float] = deque()  # when each began
        self._log = RefusalLog(clock)
        self.stopping = False

    @property
    def num_waiting(self) -> int:
        """Connections without a stream."""
        return sum(map(len, self._waiting.values()))

    @property
    def num_streams(self) -> int:
        """Slots that are taken."""
        return self.streams.total()

    def enter(self, address: str, abort: Callable[[], None]) -> "Place":
        """Count a new connection; above `max_waiting`, close the oldest of the address that has most of them."""
        if self._handshakes:
            self._handshakes.popleft()
        place = Place(self, group_of(address), abort)
        self.start_waiting(place)
        if self.num_waiting > self.settings.max_waiting:
            most = max(self._waiting.values(), key=len)
            oldest = next(iter(most))
            self.stop_waiting(oldest)
            oldest.refused("too-many-connections")
            oldest.abort()
        return place

    def start_waiting(self, place: "Place") -> None:
        """Count a connection without a stream."""
        self._waiting.setdefault(place.address, {})[place] = None

    def stop_waiting(self, place: "Place") -> bool:
        """Count it no more; return whether it was counted."""
        of_address = self._waiting.get(place.address, {})
        found = of_address.pop(place, 0) is None
        if not of_address:
            self._waiting.pop(place.address, None)
        return found

    def begin_handshake(self) -> None:
        """Count a connection that was accepted and whose TLS handshake begins.

        Raises:
            ConnectionRefusedError: more than `MOST_HANDSHAKES` have not ended.
        """
        while self._handshakes and self._handshakes[0] < self.clock() - self.settings.start_seconds:
            self._handshakes.popleft()  # it has failed
        if len(self._handshakes) >= MOST_HANDSHAKES:
            raise ConnectionRefusedError
        self._handshakes.append(self.clock())

    def refused(self, reason: str, address: str) -> None:
        """Count a refusal, and log it within bounds."""
        self._metrics.refusals.labels(reason).inc()
        self._log.note(reason, address)

    def close(self) -> None:
        """Close connections that have not opened a websocket, and log the refusals that were not logged yet."""
        for place in [place for of_address in self._waiting.values() for place in of_address if not place.opened]:
            place.abort()
        self._log.flush()


class Place:
    """A client's connection, counted by its address; `abort` closes it at once."""

    def __init__(self, admission: Admission, address: str, abort: Callable[[], None]) -> None:
        self._admission, self.address, self.abort = admission, address, abort
        self.opened = self.streams = self.gone = False

    def forwarded_for(self, addresses: str) -> None:
        """Count it by the last of the addresses in X-Forwarded-For, when a configured proxy sent that header."""
        last, proxies = addresses.rpartition(",")[2].strip(), self._admission.settings.proxies
        if self.address in map(group_of, proxies) and last and self._admission.stop_waiting(self):
            self.address = group_of(last)
            self._admission.start_waiting(self)

    def check_token(self, given: str) -> None:
        """Compare a token with the server's, in constant time.

        Raises:
            Refusal: it is wrong, or the address has sent too many wrong ones.
        """
        settings, wrong, now = self._admission.settings, self._admission.wrong, self._admission.clock()
        token, rate = settings.token, settings.wrong_tokens_per_minute
        if token is None:
            return
        left, counted_at = wrong.get(self.address, (rate, 0.0))
        left = min(left + (now - counted_at) * rate / 60, rate)
        if left < 1:
            raise Refusal("throttled", f"more than {rate:g} wrong tokens a minute from {self.address}; try again later")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode("utf-8", "replace")):
            wrong[self.address] = (left - 1, now)
            wrong.move_to_end(self.address)
            if len(wrong) > MOST_ADDRESSES:
                wrong.popitem(last=False)
            raise Refusal("unauthorized", "the token is missing or wrong: in start or as Authorization: Bearer TOKEN")

    def take_slot(self, load: float) -> None:
        """Take one of the slots for streams.

        Raises:
            Refusal: the server stops, all slots are taken, all of this address are, or the model is busy.
        """
        admission, settings = self._admission, self._admission.settings
        most = settings.max_clients_per_address
        if admission.stopping:
            raise Refusal("stopping", "the server stops")
        if admission.num_streams >= settings.max_clients:
            message = f"as many streams as there may be ({settings.max_clients}) are open; try again later"
            raise Refusal("too-many-clients", message)
        if admission.streams[self.address] >= most:
            message = f"{self.address} has as many streams as an address may have ({most}, max_clients_per_address)"
            raise Refusal("too-many-clients", message)
        if load > settings.busy_load:
            raise Refusal("busy", "the model is busy with the streams that are open; try again later")
        admission.stop_waiting(self)
        self.streams = True
        admission.streams[self.address] += 1

    def give_slot_back(self) -> None:
        """The stream has ended, and the connection waits for its end; a second call changes nothing."""
        if self.streams:
            self.streams = False
            self._admission.streams[self.address] -= 1
            self._admission.streams += Counter()  # drop addresses without streams
            if not self.gone:
                self._admission.start_waiting(self)

    def leave(self) -> None:
        """The connection is closed; its stream, if it has one, keeps its slot until it has ended."""
        self.gone = True
        self._admission.stop_waiting(self)

    def refused(self, reason: str) -> None:
        """Count a refusal of this client."""
        self._admission.refused(reason, self.address)


class RefusalLog:
    """Logs the first refusal at once, and those that follow as one line a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._next = clock, -float("inf")
        self._reasons: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()

    def note(self, reason: str, address: str) -> None:
        """Count a refusal; log a line when the last one is old enough."""
        self._reasons[reason] += 1
        if address in self._addresses or len(self._addresses) < MOST_ADDRESSES:
            self._addresses[address] += 1
        if self._clock() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Log what was counted since the last line."""
        if not self._reasons:
            return
        total, (address, most) = self._reasons.total(), self._addresses.most_common(1)[0]
        reasons = ", ".join(f"{count} {reason}" for reason, count in self._reasons.most_common())
        _log.warning("asr-kd serve: %d refused: %s; most from %s (%d)", total, reasons, address, most)
        self._reasons.clear()
        self._addresses.clear()
        self._next = self._clock() + LOG_SECONDS


def group_of(address: str) -> str:
    """Return what a client's address is counted by: itself, or the /64 network of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:60]
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        if not found.is_loopback:
            return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
