"""Files to text, one after another, through the streaming path when the model streams."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from torch import Tensor

from asr_kd.audio import SAMPLE_RATE, ChannelPolicy, read_audio
from asr_kd.errors import AudioError
from asr_kd.runtime.recognizer import Recognizer, open_recognizer

PACKET_SECONDS = 0.1
"""Audio handed to a stream at once; the text does not depend on it."""


class Transcript(NamedTuple):
    """The text of a file, or why there is none."""

    path: Path
    text: str
    error: AudioError | None = None


def transcribe_files(model: Path, paths: Sequence[Path], channels: ChannelPolicy = "refuse") -> Iterator[Transcript]:
    """Transcribe audio files; one that cannot be read gives its error and the others go on.

    Raises:
        AudioError: another word for `channels` than its policies.
        CheckpointError, BundleError: the model is not one, or is damaged; before any file is read.
    """
    if channels not in get_args(ChannelPolicy):
        raise AudioError(f"channels is {channels!r}", expected=" or ".join(get_args(ChannelPolicy)))
    recognizer = open_recognizer(model)
    for path in paths:
        try:
            waveform = read_audio(path, channels=channels)
        except AudioError as error:
            yield Transcript(path, "", error)
            continue
        yield Transcript(path, _transcribe(recognizer, waveform))


def _transcribe(recognizer: Recognizer, waveform: Tensor) -> str:
    if recognizer.context is None:
        return recognizer.transcribe([waveform])[0]
    stream = recognizer.stream()
    for packet in waveform.split(int(PACKET_SECONDS * SAMPLE_RATE)):
        stream.accept(packet)
    return stream.final()
