"""Refusals: why the server ends a stream, and the code with which it closes the connection."""

CLOSE_CODES = {
    "malformed": 1007,
    "sample-rate": 1003,
    "too-large": 1009,
    "unauthorized": 1008,
    "throttled": 1008,
    "rate": 1008,
    "too-long": 1008,
    "idle": 1008,
    "not-reading": 1008,
    "stopping": 1001,
    "too-many-clients": 1013,
    "busy": 1013,
    "internal": 1011,
}
"""Reason of a refusal or end → code (RFC 6455) with which the connection is closed."""


class Refusal(Exception):
    """The server ends a stream.

    Args:
        code: a key of `CLOSE_CODES`.
        message: what was found and what is expected.
        finishes: whether audio sent so far is still decoded and its results are sent.
    """

    def __init__(self, code: str, message: str, *, finishes: bool = False) -> None:
        self.code, self.message, self.finishes = code, message, finishes
        super().__init__(f"{code}: {message}")

    @property
    def close_code(self) -> int:
        """Code with which the connection is closed."""
        return CLOSE_CODES[self.code]
