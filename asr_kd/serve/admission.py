"""Admission: connections and streams are counted by address, tokens are checked, and refusals are logged in bounds.

A connection waits until its start message is accepted: only then does it take one of the slots for streams. Waiting
connections are bounded too, and the address with most of them loses its oldest, so silent ones exclude no others.
"""

import hmac
import ipaddress
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from asr_kd.serve.http_messages import Metrics
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


class Place:
    """A client's connection, counted by its address.

    Args:
        admission: what counts it.
        address: of the client.
        abort: closes the connection at once.
    """

    def __init__(self, admission: "Admission", address: str, abort: Callable[[], None]) -> None:
        self._admission, self.address, self.abort = admission, address, abort
        self.opened = self.streams = self.gone = False

    def forwarded_for(self, addresses: str) -> None:
        """Count it by the last of the addresses in X-Forwarded-For, when a configured proxy sent that header."""
        self._admission.move(self, addresses)

    def check_token(self, given: str) -> None:
        """Compare a token with the server's, in constant time.

        Raises:
            Refusal: it is wrong, or the address has sent too many wrong ones.
        """
        self._admission.check_token(self.address, given)

    def take_slot(self, load: float) -> None:
        """Take one of the slots for streams.

        Raises:
            Refusal: the server stops, all slots are taken, all of this address are, or the model is busy.
        """
        self._admission.take_slot(self, load)

    def give_slot_back(self) -> None:
        """The stream has ended; the connection waits for its end."""
        self._admission.give_slot_back(self)

    def leave(self) -> None:
        """The connection is closed; its stream, if it has one, keeps its slot until it has ended."""
        self._admission.leave(self)

    def refused(self, reason: str) -> None:
        """Count a refusal of this client."""
        self._admission.refused(reason, self.address)


class Admission:
    """Counts of one server.

    Args:
        settings: the limits.
        metrics: of the server.
        clock: seconds that never go back.
    """

    def __init__(self, settings: ServeSettings, metrics: Metrics, clock: Clock = time.monotonic) -> None:
        self._settings, self._metrics, self._clock = settings, metrics, clock
        self._waiting: dict[str, dict[Place, None]] = {}  # by address, the oldest first
        self._streams: Counter[str] = Counter()
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()  # wrong tokens left, and when that was
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
        return self._streams.total()

    def enter(self, address: str, abort: Callable[[], None]) -> Place:
        """Count a new connection; above `max_waiting`, close the oldest of the address that has most of them."""
        if self._handshakes:
            self._handshakes.popleft()
        place = Place(self, group_of(address), abort)
        self._waiting.setdefault(place.address, {})[place] = None
        if self.num_waiting > self._settings.max_waiting:
            most = max(self._waiting.values(), key=len)
            oldest = next(iter(most))
            self._stop_waiting(oldest)
            self.refused("too-many-connections", oldest.address)
            oldest.abort()
        return place

    def move(self, place: Place, addresses: str) -> None:
        """See `Place.forwarded_for`."""
        last = addresses.rpartition(",")[2].strip()
        if place.address in map(group_of, self._settings.proxies) and last and self._stop_waiting(place):
            place.address = group_of(last)
            self._waiting.setdefault(place.address, {})[place] = None

    def give_slot_back(self, place: Place) -> None:
        """See `Place.give_slot_back`; a second call changes nothing."""
        if place.streams:
            place.streams = False
            self._streams[place.address] -= 1
            self._streams += Counter()  # drop addresses without streams
            if not place.gone:
                self._waiting.setdefault(place.address, {})[place] = None

    def leave(self, place: Place) -> None:
        """See `Place.leave`."""
        place.gone = True
        self._stop_waiting(place)

    def begin_handshake(self) -> None:
        """Count a connection that was accepted and whose TLS handshake begins.

        Raises:
            ConnectionRefusedError: more than `MOST_HANDSHAKES` have not ended.
        """
        while self._handshakes and self._handshakes[0] < self._clock() - self._settings.start_seconds:
            self._handshakes.popleft()  # it has failed
        if len(self._handshakes) >= MOST_HANDSHAKES:
            raise ConnectionRefusedError
        self._handshakes.append(self._clock())

    def check_token(self, address: str, given: str) -> None:
        """See `Place.check_token`."""
        token, rate = self._settings.token, self._settings.wrong_tokens_per_minute
        if token is None:
            return
        left, counted_at = self._wrong.get(address, (rate, 0.0))
        now = self._clock()
        left = min(left + (now - counted_at) * rate / 60, rate)
        if left < 1:
            raise Refusal("throttled", f"more than {rate:g} wrong tokens a minute from {address}; try again later")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode("utf-8", "replace")):
            self._wrong[address] = (left - 1, now)
            self._wrong.move_to_end(address)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)
            raise Refusal("unauthorized", "the token is missing or wrong: in start or as Authorization: Bearer TOKEN")

    def take_slot(self, place: Place, load: float) -> None:
        """See `Place.take_slot`."""
        settings = self._settings
        if self.stopping:
            raise Refusal("stopping", "the server stops")
        if self.num_streams >= settings.max_clients:
            message = f"as many streams as there may be ({settings.max_clients}) are open; try again later"
            raise Refusal("too-many-clients", message)
        if self._streams[place.address] >= settings.max_clients_per_address:
            most = settings.max_clients_per_address
            message = f"{place.address} has as many streams as an address may have ({most}, max_clients_per_address)"
            raise Refusal("too-many-clients", message)
        if load > settings.busy_load:
            raise Refusal("busy", "the model is busy with the streams that are open; try again later")
        self._stop_waiting(place)
        place.streams = True
        self._streams[place.address] += 1

    def refused(self, reason: str, address: str) -> None:
        """Count a refusal, and log it within bounds."""
        self._metrics.refusals.labels(reason).inc()
        self._log.note(reason, address)

    def close(self) -> None:
        """Close connections that have not opened a websocket, and log the refusals that were not logged yet."""
        for place in [place for places in self._waiting.values() for place in places if not place.opened]:
            place.abort()
        self._log.flush()

    def _stop_waiting(self, place: Place) -> bool:
        of_address = self._waiting.get(place.address, {})
        found = of_address.pop(place, 0) is None
        if not of_address:
            self._waiting.pop(place.address, None)
        return found


class RefusalLog:
    """Logs the first refusal at once, and those that follow as one line a minute.

    Args:
        clock: seconds that never go back.
    """

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
