"""Metrics of the server in Prometheus' format. Only this file imports prometheus_client."""

import importlib

from asr_kd.errors import MissingExtraError

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            client = importlib.import_module("prometheus_client")
        except ImportError as error:
            raise MissingExtraError("prometheus-client", "serve") from error
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
        """Content type of `text`."""
        return str(self._client.exposition.CONTENT_TYPE_PLAIN_0_0_4)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return bytes(self._client.generate_latest(self._registry))
