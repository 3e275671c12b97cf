"""One live stream of audio to text: packets of any size in, a growing transcript out.

The transcript depends on the samples only, never on how they were cut into packets, and equals that of the
masked pass over the same audio padded by ``padding``.
"""

from typing import Any

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


class StreamingRecognizer:
    """Decodes one stream.

    Args:
        backend: a streaming model; several streams may share it.
        vocabulary: its tokens.
        tail_ms: silence that `final` appends so that the last word comes out.
        name: what error messages call the model.
        decoder: turns its posteriors into text; None is greedy.
        endpoint: when an utterance has ended, see `ended_by_rule`.
    """

    def __init__(
        self,
        backend: Backend[Any],
        vocabulary: Vocabulary,
        tail_ms: int = DEFAULT_TAIL_MS,
        name: str = "model",
        decoder: Decoder | None = None,
        endpoint: EndpointSettings = DEFAULT_ENDPOINT,
    ) -> None:
        if backend.context is None:
            raise ValueError("a full-context model cannot stream; use Recognizer.transcribe")
        self._backend, self._vocabulary, self._tail_ms, self._name = backend, vocabulary, tail_ms, name
        self._chunk_frames = backend.context.chunk_frames
        self._decoder = (decoder or GreedyDecoder(vocabulary.blank_id)).stream()
        self._endpoint = endpoint
        self.reset()

    def reset(self) -> None:
        """Start a new utterance; nothing of the old one is remembered."""
        self._fbank = StreamingFbank()
        self._features = torch.zeros(0, NUM_MEL_BINS)
        self._state = self._backend.initial_state(1)
        self._decoder.reset()
        self._num_samples = 0
        self._frames_before = 0  # of earlier utterances of this stream
        self._finished = False

    def next_utterance(self) -> None:
        """Go on after an endpoint: text and history of the model start anew, the audio does not (a client's Reset)."""
        self._frames_before += self._decoder.num_frames
        self._state = self._backend.initial_state(1)
        self._decoder.reset()

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
        if self._finished:
            raise ValueError("this stream has ended; call reset() or open another one")
        packet = check_samples(samples)
        self._num_samples += len(packet)
        self._run(self._fbank.accept(packet))

    def partial(self) -> str:
        """The transcript of the chunks decoded so far."""
        return text_of(self._best, self._vocabulary)

    def final(self) -> str:
        """End the utterance: pad it to complete chunks and return the whole transcript."""
        if not self._finished:
            self._finished = True
            missing = padded_num_samples(self._num_samples, self._chunk_frames, self._tail_ms) - self._num_samples
            if self._num_samples:
                self._run(self._fbank.accept(torch.zeros(missing)))
                self._run(self._fbank.finish())
            self._decoder.finish()
        return self.partial()

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

    def _run(self, features: Tensor) -> None:
        """Decode every chunk that is complete with these further frames, [T, 80]."""
        self._features = torch.cat([self._features, features])
        shift, window = FACTOR * self._chunk_frames, feature_frames_for(self._chunk_frames)
        while len(self._features) >= window:
            log_probs, self._state = self._backend.step(self._features[:window].unsqueeze(0), self._state)
            check_numbers(log_probs, self._name)
            self._decoder.accept(log_probs[0])
            self._features = self._features[shift:]


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
    packet = packet.to("cpu", torch.float32)
    peak = float(packet.abs().max()) if len(packet) else 0.0
    if not peak <= LOUDEST:  # also true for NaN
        raise AudioError(
            f"samples reach {peak:g}",
            expected="finite floats in [-1, 1]",
            remedy="Scale 16-bit audio by 1/32768; look for damage in the source if values are NaN or infinite",
        )
    return packet.contiguous()
