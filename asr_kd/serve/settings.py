"""Where a server listens, whom it lets in, and what it allows a client."""

from pathlib import Path

from pydantic import Field, model_validator

from asr_kd.config import Settings
from asr_kd.decoding.endpoint import EndpointSettings


class ServeSettings(Settings):
    """Of `asr-kd serve`. Every limit bounds what one client can take from the others."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65_535)
    """0: any free one."""
    token: str | None = Field(None, min_length=1)
    """What clients must know; None lets in everyone who reaches the port."""
    tls_cert: Path | None = None
    """Certificate chain, PEM; with `tls_key` the server speaks https and wss only."""
    tls_key: Path | None = None
    origins: tuple[str, ...] = ()
    """Web pages that may connect besides our own, such as https://example.org."""
    endpoint: EndpointSettings = EndpointSettings()
    """Where utterances end."""

    max_clients: int = Field(64, ge=1, le=10_000)
    """Streams at once."""
    max_batch: int = Field(64, ge=1, le=1_024)
    """Streams that share a step."""
    busy_load: float = Field(1.0, gt=0)
    """New streams are refused while a step for everyone takes longer than this many chunks of audio."""
    frame_bytes: int = Field(65_536, ge=1_024, le=16_777_216)
    """Largest message: two seconds of 16-bit audio."""
    messages_per_second: float = Field(200.0, gt=0)
    """On average; ten seconds' worth may come at once, as they do after a pause of the network."""
    pending_seconds: float = Field(10.0, gt=0, le=600)
    """Audio of a client that waits for the model; no more is read until some has been heard."""
    stream_seconds: float = Field(14_400.0, gt=0)
    """Audio of one stream, four hours; then it is finished."""
    start_seconds: float = Field(5.0, gt=0)
    """Until a client has said what it sends."""
    idle_seconds: float = Field(30.0, gt=0)
    """Without a message a stream is finished."""
    send_seconds: float = Field(10.0, gt=0)
    """Until a client must have read what it is sent."""
    ping_seconds: float = Field(20.0, gt=0)
    """A client is asked so often whether it is there, and has as long to answer."""
    grace_seconds: float = Field(5.0, ge=0, le=3_600)
    """Asked to stop, the server lets streams go on for so long before it finishes them."""

    def open_doors(self) -> list[str]:
        """What someone who listens beyond this machine should know."""
        if self.host == "localhost" or self.host.startswith("127.") or self.host == "::1":
            return []
        doors = []
        if self.token is None:
            doors.append(f"whoever reaches {self.host} may connect; set --token or ASR_KD_TOKEN to choose")
        if self.tls_cert is None:
            doors.append(
                "what is said travels unencrypted, and browsers give this page no microphone without --tls-cert"
            )
        return doors

    @model_validator(mode="after")
    def _tls_needs_both(self) -> "ServeSettings":
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        return self
