"""Files to text, one after another, read block by block: recordings of hours in constant memory.

Through the streaming path when the model streams, in windows when it needs the whole utterance.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from asr_kd.audio import ChannelPolicy, read_blocks
from asr_kd.decoding.opening import GREEDY
from asr_kd.decoding.settings import DecodingSettings
from asr_kd.decoding.words import Word, text_of
from asr_kd.errors import AudioError
from asr_kd.runtime.recognizer import Recognizer, open_recognizer
from asr_kd.runtime.streaming import StreamingRecognizer
from asr_kd.runtime.windows import WindowedStream


class Scored(NamedTuple):
    """One of several readings."""

    text: str
    score: float


class Transcript(NamedTuple):
    """The text of a file, or why there is none."""

    path: Path
    text: str
    error: AudioError | None = None
    words: tuple[Word, ...] = ()
    nbest: tuple[Scored, ...] = ()


def transcribe_files(
    model: Path,
    paths: Sequence[Path],
    channels: ChannelPolicy = "refuse",
    decoding: DecodingSettings = GREEDY,
) -> Iterator[Transcript]:
    """Transcribe audio files; one that cannot be read gives its error and the others go on.

    Raises:
        AudioError: another word for `channels` than its policies.
        CheckpointError, BundleError: the model is not one, or is damaged; before any file is read.
        LanguageModelError: the decoding does not fit the model.
    """
    if channels not in get_args(ChannelPolicy):
        raise AudioError(f"channels is {channels!r}", expected=" or ".join(get_args(ChannelPolicy)))
    recognizer = open_recognizer(model, decoding=decoding)
    for path in paths:
        try:
            yield _transcribe(recognizer, path, channels)
        except AudioError as error:
            yield Transcript(path, "", error)


def _transcribe(recognizer: Recognizer, path: Path, channels: ChannelPolicy) -> Transcript:
    stream: StreamingRecognizer | WindowedStream
    stream = WindowedStream(recognizer) if recognizer.context is None else recognizer.stream()
    for block in read_blocks(path, channels=channels):
        stream.feed(block)
    text = stream.final()
    scored = tuple(Scored(text_of(item, recognizer.vocabulary), item.score) for item in stream.nbest())
    return Transcript(path, text, None, tuple(stream.words()), scored)
