"""A full-context model on a recording of any length: in overlapping windows, whose frames one decoder hears in turn.

Up to two minutes are heard whole, as `Recognizer.transcribe` does. Beyond, each window is believed from the middle of
the overlap before it to the middle of the one after it, so memory does not depend on the length.
"""

import torch
from torch import Tensor

from asr_kd.decoding.hypothesis import Hypothesis
from asr_kd.decoding.words import Word, text_of, words_of
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.models.subsampling import FRAME_SHIFT_MS
from asr_kd.runtime.recognizer import Recognizer

WINDOW_SECONDS = 120
"""Longest audio that the model hears at once."""

OVERLAP_SECONDS = 16
"""What neighbouring windows share."""

_FRAME_SAMPLES = SAMPLE_RATE * FRAME_SHIFT_MS // 1000


class WindowedStream:
    """Takes a recording piece by piece; text comes at its end.

    Args:
        recognizer: of a full-context model.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._decoder = recognizer.decoder.stream()
        self._samples = torch.zeros(0)
        self._heard_frames = 0  # frames at the start of the samples that a window before has given
        self._finished = False

    @property
    def pending_seconds(self) -> float:
        """Audio that is kept."""
        return len(self._samples) / SAMPLE_RATE

    def feed(self, samples: Tensor) -> None:
        """Take further samples, [S].

        Raises:
            CheckpointError: the model gives NaN.
        """
        self._samples = torch.cat([self._samples, samples])
        while len(self._samples) > WINDOW_SECONDS * SAMPLE_RATE:
            window = self._samples[: WINDOW_SECONDS * SAMPLE_RATE]
            border = (WINDOW_SECONDS - OVERLAP_SECONDS // 2) * SAMPLE_RATE // _FRAME_SAMPLES
            self._forward(window, border)
            dropped = (WINDOW_SECONDS - OVERLAP_SECONDS) * SAMPLE_RATE
            self._heard_frames = border - dropped // _FRAME_SAMPLES
            self._samples = self._samples[dropped:].clone()

    def final(self) -> str:
        """End the recording and return its text."""
        if not self._finished:
            self._finished = True
            self._forward(self._samples, None)
            self._decoder.finish()
        return text_of(self.nbest()[0], self._recognizer.vocabulary)

    def nbest(self) -> list[Hypothesis]:
        """Hypotheses, the best first."""
        return self._decoder.nbest()

    def words(self) -> list[Word]:
        """Words of the best one, with seconds from the start of the recording."""
        return words_of(self.nbest()[0], self._recognizer.vocabulary, FRAME_SHIFT_MS)

    def _forward(self, samples: Tensor, border: int | None) -> None:
        if len(samples):
            output = self._recognizer.log_probs([samples])
            last = int(output.lens[0]) if border is None else border
            self._decoder.accept(output.log_probs[0, self._heard_frames : last])
