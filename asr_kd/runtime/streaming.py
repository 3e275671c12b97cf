"""Live streams of audio to text: packets of any size in, a growing transcript out.

The transcript depends on the samples only, not on how they were cut into packets, and equals that of one masked pass
over the same audio padded by `backend.padded_num_samples`. `step_together` runs one step of the model for many streams.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr_kd.decoding.base import Decoder, Hypothesis, Word, text_of, words_of
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.settings import EndpointSettings, activated_rule
from asr_kd.errors import AudioError, CheckpointError
from asr_kd.features.fbank import NUM_MEL_BINS, StreamingFbank
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.runtime.backend import DEFAULT_TAIL_MS, Backend, check_numbers, padded_num_samples
from asr_kd.text.vocabulary import Vocabulary

LOUDEST = 16.0
"""Samples beyond this were not scaled to [−1, 1]; resampling overshoots by far less."""

DEFAULT_ENDPOINT = EndpointSettings()


class EndedUtterance(NamedTuple):
    """An ended part of a stream; seconds count from the start of the stream."""

    text: str
    words: tuple[Word, ...]
    start_seconds: float
    end_seconds: float
    rule: int | None  # the endpoint rule that ended it, 1 to 3; None: the caller or the end of the stream


class StreamingRecognizer:
    """Recognizer of one stream: `accept` packets, read `partial`, end with `final`.

    With `cut_at_endpoints`, utterances that an endpoint rule ends are collected for `take_utterances`; `partial` and
    `final` then give the current utterance only. Rules are checked after every chunk, so the cuts do not depend on the
    packets either.

    Args:
        backend: a streaming model; several streams may share it.
        vocabulary: its tokens.
        tail_ms: silence that `final` appends so that the last word is emitted.
        name: name of the model in error messages.
        decoder: decoder of its posteriors; None is greedy.
        endpoint: when an utterance has ended, see `ended_by_rule`.
        cut_at_endpoints: start a new utterance whenever one has ended; without it nothing is cut.
    """

    def __init__(
        self,
        backend: Backend[Any],
        vocabulary: Vocabulary,
        tail_ms: int = DEFAULT_TAIL_MS,
        name: str = "model",
        decoder: Decoder | None = None,
        endpoint: EndpointSettings = DEFAULT_ENDPOINT,
        cut_at_endpoints: bool = False,
    ) -> None:
        if backend.context is None:
            raise ValueError("a full-context model cannot stream; use Recognizer.transcribe")
        self.backend, self._vocabulary, self._tail_ms, self._name = backend, vocabulary, tail_ms, name
        self._context = backend.context
        self._decoder = (decoder or GreedyDecoder(vocabulary.blank_id)).stream()
        self._endpoint, self._cut_at_endpoints = endpoint, cut_at_endpoints
        self.reset()

    def reset(self) -> None:
        """Start a new stream; no state of the old one is kept."""
        self._fbank = StreamingFbank()
        self._features = np.zeros((0, NUM_MEL_BINS), dtype=np.float32)  # of the current chunk, as far as they are known
        self._state = self.backend.initial_state(1)
        self._decoder.reset()
        self._num_samples = 0
        self._frames_before = 0  # of earlier utterances of this stream
        self._finished = False
        self._ended: list[EndedUtterance] = []

    def next_utterance(self) -> EndedUtterance:
        """End the utterance, whose text may be empty, and start the next: text and model state start anew.

        This is the Reset of sherpa-onnx 2.0.1; tests/export compares the two.
        """
        rule = self.ended_by_rule
        self._decoder.finish()
        start = self._frames_before
        self._frames_before += self._decoder.num_frames
        seconds = [frames * FRAME_SHIFT_MS / 1000 for frames in (start, self._frames_before)]
        words = words_of(self._best, self._vocabulary, FRAME_SHIFT_MS, start * FRAME_SHIFT_MS)
        ended = EndedUtterance(self.partial(), tuple(words), seconds[0], seconds[1], rule)
        self._state = self.backend.initial_state(1)
        self._decoder.reset()
        return ended

    def take_utterances(self) -> list[EndedUtterance]:
        """Return the utterances with text that rules have ended since the last call; needs `cut_at_endpoints`."""
        ended, self._ended = self._ended, []
        return ended

    def accept(self, samples: Tensor | np.ndarray) -> str:
        """Decode the next packet [S], floats at 16 kHz in [-1, 1], and return the transcript so far.

        Raises:
            AudioError: not such samples, or not finite; the stream is unchanged and may continue.
            ValueError: called after `final`.
        """
        self.feed(samples)
        return self.partial()

    def feed(self, samples: Tensor | np.ndarray) -> None:
        """As `accept`, without returning the text, whose length grows with the recording."""
        self.queue(samples)
        self._run()

    def queue(self, samples: Tensor | np.ndarray) -> None:
        """Take the next packet without decoding it; `step_together` decodes many streams. Raises as `accept`."""
        if self._finished:
            raise ValueError("this stream has ended; call reset() or open another one")
        packet = check_samples(samples)
        self._num_samples += len(packet)
        self._fbank.queue(packet)

    def partial(self) -> str:
        """Return the transcript of the chunks decoded so far."""
        return text_of(self._best, self._vocabulary)

    def final(self) -> str:
        """End the stream: pad it to complete chunks, decode them and return the transcript of the last utterance."""
        self.queue_end()
        self._run()
        self._decoder.finish()
        return self.partial()

    def queue_end(self) -> None:
        """Queue the padding after the last sample without decoding; call `final` once `is_ready` is false."""
        if not self._finished:
            self._finished = True
            missing = padded_num_samples(self._num_samples, self._context, self._tail_ms) - self._num_samples
            if self._num_samples:
                self._fbank.queue(torch.zeros(missing))
                self._fbank.end()

    def nbest(self) -> list[Hypothesis]:
        """Return hypotheses of this utterance, the best first; before `final` only one, which may change."""
        return self._decoder.nbest()

    def words(self) -> list[Word]:
        """Return the words of the best hypothesis, with seconds from the start of the stream."""
        return words_of(self._best, self._vocabulary, FRAME_SHIFT_MS, self._frames_before * FRAME_SHIFT_MS)

    @property
    def tokens(self) -> list[int]:
        """Token ids so far."""
        return list(self._best.tokens)

    @property
    def token_frames(self) -> list[int]:
        """The 40 ms frame of each token, from the start of the utterance."""
        return list(self._best.frames)

    @property
    def ended_by_rule(self) -> int | None:
        """The endpoint rule, 1 to 3, that has ended the utterance; None while it continues."""
        return activated_rule(self._endpoint, self._decoder.num_frames, self._decoder.trailing_blanks)

    @property
    def _best(self) -> Hypothesis:
        return self._decoder.nbest()[0]

    @property
    def decoded_seconds(self) -> float:
        """Audio decoded so far, from the start of the stream; the model has read its look-ahead beyond."""
        return (self._frames_before + self._decoder.num_frames) * FRAME_SHIFT_MS / 1000

    @property
    def is_ready(self) -> bool:
        """Whether a complete chunk is queued."""
        return len(self._features) + self._fbank.ready >= self._context.window_feature_frames

    @property
    def missing_samples(self) -> int:
        """Samples until the next chunk is complete; 0 when it is."""
        return (
            0 if self.is_ready else self._fbank.samples_until(self._context.window_feature_frames - len(self._features))
        )

    def window(self) -> tuple[Tensor, Any]:
        """Return the input of the next step of a stream that `is_ready`: features [4 (C + R) + 3, 80] and its state."""
        missing = self._context.window_feature_frames - len(self._features)
        if missing > 0:
            found = self._fbank.take(min(missing, self._fbank.ready))
            self._features = np.concatenate([self._features, found])
        return torch.from_numpy(self._features), self._state

    def take(self, log_probs: Tensor, state: Any) -> None:
        """Take the output of that step: log-probabilities [C, V] and the state after it.

        Raises:
            CheckpointError: the log-probabilities are NaN.
        """
        check_numbers(log_probs, self._name)
        self._features, self._state = self._features[self._context.shift_feature_frames :], state
        self._decoder.accept(log_probs)
        if self._cut_at_endpoints and self.ended_by_rule is not None:
            ended = self.next_utterance()
            if ended.text:
                self._ended.append(ended)

    def _run(self) -> None:
        while self.is_ready:
            features, state = self.window()
            log_probs, state = self.backend.step(features.unsqueeze(0), state)
            self.take(log_probs[0], state)


def step_together(streams: Sequence[StreamingRecognizer]) -> dict[int, CheckpointError]:
    """Decode the next chunk of every stream in one step of the model; each stream keeps its own position.

    Rows of a batch do not influence one another, so every stream gives the text that it gives alone. The exception are
    int8 bundles, whose activations share one scale per step; see `export.graphs`. sherpa-onnx batches the same way.

    Args:
        streams: of one model, all of them ready (`StreamingRecognizer.is_ready`).

    Returns:
        Position in `streams` → the error of a stream whose log-probabilities are NaN; the other streams have advanced.

    Raises:
        ValueError: streams of several models.
    """
    if not streams:
        return {}
    backend = streams[0].backend
    if any(stream.backend is not backend for stream in streams):
        raise ValueError("streams of several models cannot share a step")
    features, states = zip(*(stream.window() for stream in streams), strict=True)
    joined = backend.join(states) if len(states) > 1 else states[0]
    log_probs, after = backend.step(torch.stack(features), joined)
    parts = backend.split(after) if len(states) > 1 else [after]
    failed = {}
    for position, (stream, rows, state) in enumerate(zip(streams, log_probs, parts, strict=True)):
        try:
            stream.take(rows, state)
        except CheckpointError as error:
            failed[position] = error
    return failed


def check_samples(samples: Tensor | np.ndarray) -> Tensor:
    """Return samples as float32 [S].

    Raises:
        AudioError: another shape or type, NaN or infinite values, or a scale that is not [−1, 1].
    """
    packet = torch.as_tensor(samples)
    if packet.ndim != 1 or not packet.is_floating_point():
        raise AudioError(
            f"samples of shape {tuple(packet.shape)} and type {packet.dtype}",
            expected="one channel of floats at 16 kHz in [-1, 1]",
            remedy="Divide 16-bit integers by 32768; choose or average channels before",
        )
    packet = packet.to("cpu", torch.float32).contiguous()
    if len(packet) and not float(packet.abs().max()) <= LOUDEST:  # false for NaN too
        raise AudioError(
            f"samples reach {float(packet.abs().max()):g}",
            expected="finite floats in [-1, 1]",
            remedy="Scale 16-bit audio by 1/32768; look for damage in the source if values are NaN or infinite",
        )
    return packet
