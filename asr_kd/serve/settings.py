"""Settings of the server: address, access, and limits of a client."""

from pathlib import Path

from pydantic import Field, model_validator

from asr_kd.config import Settings
from asr_kd.decoding.settings import EndpointSettings


class ServeSettings(Settings):
    """Settings of `asr-kd serve`. The limits bound the resources of one client."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    """0: any free one."""
    token: str | None = Field(None, min_length=1)
    """Token that clients must send; None: everyone who reaches the port may connect."""
    tls_cert: Path | None = None
    """Certificate chain, PEM; with `tls_key` the server uses https and wss only."""
    tls_key: Path | None = None
    origins: tuple[str, ...] = ()
    """Further web pages that may connect, such as https://example.org."""
    endpoint: EndpointSettings = EndpointSettings()
    """Endpoint rules."""

    max_clients: int = Field(64, ge=1, le=10_000)
    """Simultaneous streams."""
    max_clients_per_address: int = Field(16, ge=1, le=10_000)
    """Simultaneous streams of one address, or of one IPv6 network of /64."""
    max_waiting: int = Field(256, ge=4, le=10_000)
    """Connections without a stream: requests for the page, and websockets before their start message. Of more, the
    oldest one of the address that has most of them is closed."""
    wrong_tokens_per_minute: float = Field(10.0, ge=1)
    """Wrong tokens of one address; of more, none of its tokens is compared for a while."""
    proxies: tuple[str, ...] = ()
    """Addresses of reverse proxies, whose X-Forwarded-For states the client's address."""
    max_batch: int = Field(64, ge=1, le=1_024)
    """Streams that share a step."""
    busy_load: float = Field(1.0, gt=0)
    """New streams are refused while a step for everyone takes longer than this many chunks of audio."""
    frame_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    """Largest message: two seconds of 16-bit audio."""
    messages_per_second: float = Field(200.0, gt=0)
    """Average rate, of time or of audio where that is more; those of ten seconds may arrive at once."""
    pending_seconds: float = Field(10.0, gt=0, le=600)
    """Audio of a client that waits for the model; further messages are not read until some is decoded."""
    stream_seconds: float = Field(14_400.0, gt=0)
    """Longest stream, four hours; then it is finished."""
    start_seconds: float = Field(5.0, gt=0)
    """Time for the first message."""
    idle_seconds: float = Field(30.0, gt=0)
    """Time without a message after which a stream is finished."""
    send_seconds: float = Field(10.0, gt=0)
    """Time in which a client must read a message."""
    ping_seconds: float = Field(20.0, gt=0)
    """Interval of pings. Replies may take any time, because they wait behind a client's audio; what does not arrive
    within two intervals ends the connection."""
    grace_seconds: float = Field(5.0, ge=0, le=3_600)
    """Time for which streams continue after a signal to stop."""

    def access_warnings(self) -> list[str]:
        """Return warnings about a server that is reachable from other machines."""
        if self.host == "localhost" or self.host.startswith("127.") or self.host == "::1":
            return []
        warnings = []
        if self.token is None:
            warnings.append(
                f"anyone who can reach {self.host} may connect; set --token or ASR_KD_TOKEN to restrict that"
            )
        if self.tls_cert is None:
            warnings.append("audio is sent unencrypted, and browsers give this page no microphone without --tls-cert")
        return warnings

    @model_validator(mode="after")
    def _check_tls(self) -> "ServeSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        return self
