"""One live stream of audio to text: packets of any size in, a growing transcript out.

The transcript depends on the samples only, never on how they were cut into packets, and equals that of the
masked pass over the same audio padded by ``padding``. ``together`` takes a model step for many streams at once.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from asr_kd.decoding.endpoint import EndpointSettings, activated_rule
from asr_kd.decoding.greedy import GreedyDecoder
from asr_kd.decoding.hypothesis import Decoder, Hypothesis
from asr_kd.decoding.words import Word, text_of, words_of
from asr_kd.errors import AudioError
from asr_kd.features.fbank import NUM_MEL_BINS, StreamingFbank
from asr_kd.models.subsampling import FACTOR, FRAME_SHIFT_MS, feature_frames_for
from asr_kd.runtime.backend import Backend, check_numbers
from asr_kd.runtime.padding import DEFAULT_TAIL_MS, padded_num_samples
from asr_kd.text.vocabulary import Vocabulary

LOUDEST = 16.0
"""Samples beyond this were not scaled to [−1, 1]; resampling overshoots by far less."""


DEFAULT_ENDPOINT = EndpointSettings()


class Utterance(NamedTuple):
    """A part of a stream that has ended; seconds count from the start of the stream."""

    text: str
    words: tuple[Word, ...]
    start_seconds: float
    end_seconds: float
    rule: int | None  # the endpoint rule that ended it, 1 to 3; None: the caller or the end of the stream did


class StreamingRecognizer:
    """Decodes one stream: `accept` packets, read `partial`, end with `final`.

    A long recording is better cut where its speaker pauses: with `cut_at_endpoints` utterances that a rule ends are
    collected, `take_utterances` hands them out, and `partial` and `final` are about the one that goes on. Rules are
    asked after every chunk, so where a stream is cut does not depend on its packets either.

    Args:
        backend: a streaming model; several streams may share it.
        vocabulary: its tokens.
        tail_ms: silence that `final` appends so that the last word comes out.
        name: what error messages call the model.
        decoder: turns its posteriors into text; None is greedy.
        endpoint: when an utterance has ended, see `ended_by_rule`.
        cut_at_endpoints: go on with a new utterance by itself when one has ended; without it nothing is cut.
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
        self._chunk_frames = backend.context.chunk_frames
        self._window_frames = feature_frames_for(self._chunk_frames)
        self._decoder = (decoder or GreedyDecoder(vocabulary.blank_id)).stream()
        self._endpoint, self._cut_at_endpoints = endpoint, cut_at_endpoints
        self.reset()

    def reset(self) -> None:
        """Start a new utterance; nothing of the old one is remembered."""
        self._fbank = StreamingFbank()
        self._features = np.zeros(
            (0, NUM_MEL_BINS), dtype=np.float32
        )  # of the chunk at hand: before it is complete what it repeats
        self._state = self.backend.initial_state(1)
        self._decoder.reset()
        self._num_samples = 0
        self._frames_before = 0  # of earlier utterances of this stream
        self._finished = False
        self._ended: list[Utterance] = []

    def next_utterance(self) -> Utterance:
        """End an utterance and go on: text and history of the model start anew, the audio does not.

        As the client's Reset does (sherpa-onnx 2.0.1; tests/export compares the two).

        Returns:
            The utterance that has ended; its text may be empty.
        """
        rule = self.ended_by_rule
        self._decoder.finish()
        start = self._frames_before
        self._frames_before += self._decoder.num_frames
        seconds = [frames * FRAME_SHIFT_MS / 1000 for frames in (start, self._frames_before)]
        words = words_of(self._best, self._vocabulary, FRAME_SHIFT_MS, start * FRAME_SHIFT_MS)
        ended = Utterance(self.partial(), tuple(words), seconds[0], seconds[1], rule)
        self._state = self.backend.initial_state(1)
        self._decoder.reset()
        return ended

    def take_utterances(self) -> list[Utterance]:
        """Utterances that rules have ended since the last call, those with text; only with `cut_at_endpoints`."""
        ended, self._ended = self._ended, []
        return ended

    def accept(self, samples: Tensor | np.ndarray) -> str:
        """Take the next packet and return the transcript so far.

        Args:
            samples: [S] floats at 16 kHz in [−1, 1]; S may be 0.

        Raises:
            AudioError: not such samples, or not finite. The stream is as before, and may go on.
            ValueError: called after `final`.
        """
        self.feed(samples)
        return self.partial()

    def feed(self, samples: Tensor | np.ndarray) -> None:
        """As `accept`, without putting the text together, whose length grows with the recording."""
        self.queue(samples)
        self._run()

    def queue(self, samples: Tensor | np.ndarray) -> None:
        """Take the next packet without decoding it: `together.step_together` does, for many streams at once.

        Raises:
            AudioError: the samples are not such audio; the stream goes on without them.
        """
        if self._finished:
            raise ValueError("this stream has ended; call reset() or open another one")
        packet = check_samples(samples)
        self._num_samples += len(packet)
        self._fbank.queue(packet)

    def partial(self) -> str:
        """The transcript of the chunks decoded so far."""
        return text_of(self._best, self._vocabulary)

    def final(self) -> str:
        """End the stream: pad it to complete chunks, decode them and return the transcript of the last utterance."""
        self.queue_end()
        self._run()
        self._decoder.finish()
        return self.partial()

    def queue_end(self) -> None:
        """Say that no more samples come, without decoding those that wait: once none do, `final` says the rest."""
        if not self._finished:
            self._finished = True
            missing = padded_num_samples(self._num_samples, self._chunk_frames, self._tail_ms) - self._num_samples
            if self._num_samples:
                self._fbank.queue(torch.zeros(missing))
                self._fbank.end()

    def nbest(self) -> list[Hypothesis]:
        """Hypotheses of this utterance, the best first; before `final` only one, which may yet change."""
        return self._decoder.nbest()

    def words(self) -> list[Word]:
        """Words of the best hypothesis, with seconds of audio from the start of the stream."""
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
    def token_seconds(self) -> list[float]:
        """When each token was emitted, in seconds of audio from the start of the utterance."""
        return [frame * FRAME_SHIFT_MS / 1000 for frame in self._best.frames]

    @property
    def ended_by_rule(self) -> int | None:
        """The endpoint rule, 1 to 3, by which the utterance has ended, or None; then `next_utterance` goes on."""
        return activated_rule(
            self._endpoint, self._decoder.num_frames * FRAME_SHIFT_MS / 1000, self.trailing_silence_seconds
        )

    @property
    def trailing_silence_seconds(self) -> float:
        """How long the model has said nothing but blank: what an endpoint rule asks for."""
        return self._decoder.trailing_blanks * FRAME_SHIFT_MS / 1000

    @property
    def _best(self) -> Hypothesis:
        return self._decoder.nbest()[0]

    @property
    def decoded_seconds(self) -> float:
        """Audio that chunks have been made of, from the start of the stream; the model has heard 30 ms beyond."""
        return (self._frames_before + self._decoder.num_frames) * FRAME_SHIFT_MS / 1000

    @property
    def is_ready(self) -> bool:
        """Whether a chunk is complete and waits for a step."""
        return len(self._features) + self._fbank.ready >= self._window_frames

    @property
    def missing_samples(self) -> int:
        """Samples until the next chunk is complete; 0 when it is."""
        return 0 if self.is_ready else self._fbank.samples_until(self._window_frames - len(self._features))

    def window(self) -> tuple[Tensor, Any]:
        """What the next step takes when the stream `is_ready`: features [4C + 3, 80], and the state of one stream."""
        missing = self._window_frames - len(self._features)
        if missing > 0:  # of a chunk at a time: a packet's features alone cost more
            found = self._fbank.take(min(missing, self._fbank.ready))
            self._features = np.concatenate([self._features, found])
        return torch.from_numpy(self._features), self._state

    def take(self, log_probs: Tensor, state: Any) -> None:
        """What that step gave: log-probabilities [C, V], and the state after it.

        Raises:
            CheckpointError: they are not numbers.
        """
        check_numbers(log_probs, self._name)
        self._features, self._state = self._features[FACTOR * self._chunk_frames :], state
        self._decoder.accept(log_probs)
        if self._cut_at_endpoints and self.ended_by_rule is not None:
            ended = self.next_utterance()
            if ended.text:
                self._ended.append(ended)

    def _run(self) -> None:
        """Decode every chunk that is complete."""
        while self.is_ready:
            features, state = self.window()
            log_probs, state = self.backend.step(features.unsqueeze(0), state)
            self.take(log_probs[0], state)


def check_samples(samples: Tensor | np.ndarray) -> Tensor:
    """Samples as float32 [S].

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
    # Most packets hold less energy than one sample that is too loud; that is quicker to know. NaN exceeds both.
    if not float(packet.dot(packet)) <= LOUDEST**2 and not float(packet.abs().max()) <= LOUDEST:
        raise AudioError(
            f"samples reach {float(packet.abs().max()):g}",
            expected="finite floats in [-1, 1]",
            remedy="Scale 16-bit audio by 1/32768; look for damage in the source if values are NaN or infinite",
        )
    return packet
