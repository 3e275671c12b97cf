"""Audio files to text, read block by block, so that recordings of hours need constant memory.

Streaming models run through their streaming path. Full-context models run in overlapping windows of two minutes, whose
frames go through one decoder. Transcripts are printed as plain lines, as JSON with words and n-best, or as ctm.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from asr_kd.audio import ChannelPolicy, read_blocks
from asr_kd.decoding.base import Hypothesis, Word, text_of, words_of
from asr_kd.decoding.settings import GREEDY, DecodingSettings
from asr_kd.errors import AudioError, EvaluationError
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.files import printable
from asr_kd.models.layers import FRAME_SHIFT_MS
from asr_kd.runtime.recognizer import Recognizer, open_recognizer
from asr_kd.runtime.streaming import StreamingRecognizer
from asr_kd.scoring.formats import TimedWord, ctm_lines, is_ctm_name

WINDOW_SECONDS = 120
"""Longest audio in one pass of a full-context model."""

OVERLAP_SECONDS = 16
"""Audio that neighbouring windows share."""

WordForm = Literal["json", "ctm"]

_FRAME_SAMPLES = SAMPLE_RATE * FRAME_SHIFT_MS // 1000


class Transcript(NamedTuple):
    """The text of a file, or the error that prevented it."""

    path: Path
    text: str
    error: AudioError | EvaluationError | None = None
    words: tuple[Word, ...] = ()
    nbest: tuple[tuple[str, float], ...] = ()  # text and score, best first


def transcribe_files(
    model: Path,
    paths: Sequence[Path],
    channels: ChannelPolicy = "refuse",
    decoding: DecodingSettings = GREEDY,
    form: WordForm | None = None,
) -> Iterator[Transcript]:
    """Transcribe audio files; a file that cannot be read gives its error, and the others follow.

    So does one whose name the printed `form` cannot hold, which is not decoded.

    Raises:
        CheckpointError, BundleError: the model is not one, or is damaged; before any file is read.
        LanguageModelError: the decoding does not fit the model.
    """
    recognizer = open_recognizer(model, decoding=decoding)
    for path in paths:
        try:
            _check_name(path, form)
            yield _transcribe(recognizer, path, channels)
        except (AudioError, EvaluationError) as error:
            yield Transcript(path, "", error)


def _check_name(path: Path, form: WordForm | None) -> None:
    if form == "ctm" and not is_ctm_name(path.stem):
        raise EvaluationError(
            f"its name {path.stem!r} cannot be written as ctm",
            where=printable(path),
            expected="a name without white space that does not begin with ;;",
            remedy="Use --words json, which takes any name, or rename the file",
        )


def _transcribe(recognizer: Recognizer, path: Path, channels: ChannelPolicy) -> Transcript:
    stream: StreamingRecognizer | WindowedStream
    stream = WindowedStream(recognizer) if recognizer.context is None else recognizer.stream()
    for block in read_blocks(path, channels=channels):
        stream.feed(block)
    text = stream.final()
    scored = tuple((text_of(item, recognizer.vocabulary), item.score) for item in stream.nbest())
    return Transcript(path, text, None, tuple(stream.words()), scored)


class WindowedStream:
    """Runs a full-context model over a recording of any length; the text is complete at its end.

    Up to two minutes are one pass, as in `Recognizer.transcribe`. Of longer recordings each window gives the frames
    from the middle of the overlap before it to the middle of the overlap after it, so memory is constant.
    """

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._decoder = recognizer.decoder.stream()
        self._samples = torch.zeros(0)
        self._decoded_frames = 0  # frames at the start of the samples that the window before has given
        self._finished = False

    def feed(self, samples: Tensor) -> None:
        """Take further samples, [S]."""
        self._samples = torch.cat([self._samples, samples])
        while len(self._samples) > WINDOW_SECONDS * SAMPLE_RATE:
            window = self._samples[: WINDOW_SECONDS * SAMPLE_RATE]
            border = (WINDOW_SECONDS - OVERLAP_SECONDS // 2) * SAMPLE_RATE // _FRAME_SAMPLES
            self._forward(window, border)
            dropped = (WINDOW_SECONDS - OVERLAP_SECONDS) * SAMPLE_RATE
            self._decoded_frames = border - dropped // _FRAME_SAMPLES
            self._samples = self._samples[dropped:].clone()

    def final(self) -> str:
        if not self._finished:
            self._finished = True
            self._forward(self._samples, None)
            self._decoder.finish()
        return text_of(self.nbest()[0], self._recognizer.vocabulary)

    def nbest(self) -> list[Hypothesis]:
        return self._decoder.nbest()

    def words(self) -> list[Word]:
        return words_of(self.nbest()[0], self._recognizer.vocabulary, FRAME_SHIFT_MS)

    def _forward(self, samples: Tensor, border: int | None) -> None:
        if len(samples):
            output = self._recognizer.log_probs([samples])
            last = int(output.lens[0]) if border is None else border
            self._decoder.accept(output.log_probs[0, self._decoded_frames : last])


def transcript_lines(transcript: Transcript, form: WordForm | None = None) -> str:
    """Return the printed form of a transcript, with line ends.

    Args:
        transcript: of a file that could be read.
        form: None: the path and the text. `json`: one object with words, seconds, confidences and n-best. `ctm`: a line
            per word under the file's name without its ending; none for a file without words.
    """
    if form is None:
        return f"{transcript.path}\t{transcript.text}\n"
    if form == "ctm":
        words = transcript.words
        timed = [TimedWord(w.text, w.start_seconds, w.end_seconds - w.start_seconds, w.confidence) for w in words]
        return ctm_lines(transcript.path.stem, timed)
    plain = {
        "audio": str(transcript.path),
        "text": transcript.text,
        "words": [
            {"word": w.text, "start": w.start_seconds, "end": w.end_seconds, "confidence": round(w.confidence, 4)}
            for w in transcript.words
        ],
        "nbest": [{"text": text, "score": round(score, 4)} for text, score in transcript.nbest],
    }
    return json.dumps(plain, ensure_ascii=False) + "\n"
