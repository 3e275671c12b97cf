"""Transcripts by Whisper, with the measures that indicate hallucinations.

Through faster-whisper (extra `whisper`), which runs CTranslate2 models. A model is a name of that project's
("base", "small.en"), or a folder in CTranslate2's form; a transformers folder is refused with the command that
converts it. No code from a model's folder runs.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from asr_kd.config import user_path
from asr_kd.errors import TargetsError, import_extra
from asr_kd.features.fbank import SAMPLE_RATE
from asr_kd.files import sha256_of_file
from asr_kd.teachers.settings import MODELS_VARIABLE, find_model

WEIGHTS = "model.bin"
HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
"""A model of faster-whisper, or OWNER/NAME of the hub."""
SET_LANGUAGE = (
    "Set hypotheses.NAME.language in the recipe, --language of asr-kd init, --set language=en of asr-kd pseudo-label"
)
SILENT = -10.0
"""Average log-probability of a transcript without a segment."""


@dataclass(frozen=True)
class Transcription:
    """A transcript of one utterance and what Whisper reports about it."""

    text: str
    avg_logprob: float | None = None  # per token, the average over segments weighted by their length
    no_speech_prob: float | None = None  # the largest of any segment
    compression_ratio: float | None = None  # characters to compressed bytes, the largest of any segment
    temperature: float | None = None  # the highest that any segment needed; above 0 its first decodings were rejected
    language: str | None = None
    language_prob: float | None = None


@dataclass(frozen=True)
class TimedSegment:
    """A part of a transcript; times in seconds from the beginning of the file."""

    text: str
    start: float
    end: float
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class TranscriberSettings:
    """How Whisper is run."""

    source: str
    """A model name, or a folder in CTranslate2's form."""
    language: str | None = None
    """Two letters; None only for models of English alone."""
    beam: int = 5
    compute_type: str = "int8"
    threads: int = 1
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    long_seconds: float = 30.0
    """Longer recordings are cut by voice activity."""
    batch: int = 1
    """Utterances, or voiced parts of a long recording, that are decoded together."""


class WhisperTranscriber:
    """Transcribes waveforms with a Whisper model; made by `open_transcriber`."""

    def __init__(self, model: Any, settings: TranscriberSettings, sha256: str) -> None:
        self._model = model
        self.settings = settings
        self.sha256 = sha256  # of the weights

    def transcribe(self, waveform: Tensor) -> Transcription:
        """Transcribe one waveform [S], 16 kHz, samples in [−1, 1]."""
        samples = np.ascontiguousarray(waveform.numpy(), dtype=np.float32)
        is_long = len(samples) > self.settings.long_seconds * SAMPLE_RATE
        options: dict[str, Any] = {"language": self.settings.language, "beam_size": self.settings.beam}
        if is_long and self.settings.batch > 1:
            library = import_extra("faster_whisper", "whisper", "faster-whisper")
            options |= {"batch_size": self.settings.batch, "vad_filter": True}
            found, info = library.BatchedInferencePipeline(self._model).transcribe(samples, **options)
        else:  # text of the window before would carry hallucinations on
            options |= {"vad_filter": is_long, "condition_on_previous_text": False}
            found, info = self._model.transcribe(samples, **options)
        return _summary(list(found), info)

    def transcribe_batch(self, waveforms: Sequence[Tensor]) -> list[Transcription]:
        """Transcribe waveforms together.

        Each text is that of `transcribe`, but for the rounding of batched arithmetic: what fails Whisper's own checks,
        what has no speech and what Whisper would continue in a second window is transcribed again alone.

        Args:
            waveforms: [S] each, 16 kHz, samples in [−1, 1]; longer ones than `long_seconds` are transcribed alone.
        """
        longest = self.settings.long_seconds * SAMPLE_RATE
        short = [index for index, waveform in enumerate(waveforms) if len(waveform) <= longest]
        together = (
            self._decode_together([waveforms[index] for index in short]) if len(short) > 1 else [None] * len(short)
        )
        found = dict(zip(short, together, strict=True))
        return [found.get(index) or self.transcribe(waveform) for index, waveform in enumerate(waveforms)]

    def _decode_together(self, waveforms: Sequence[Tensor]) -> list[Transcription | None]:
        """One window each, at temperature 0; None where that is not what `transcribe` would return."""
        from faster_whisper.audio import pad_or_trim
        from faster_whisper.tokenizer import Tokenizer
        from faster_whisper.transcribe import get_compression_ratio, get_suppressed_tokens

        model = self._model
        language = (self.settings.language or "en") if model.model.is_multilingual else "en"
        tokenizer = Tokenizer(model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language)
        samples = [np.ascontiguousarray(waveform.numpy(), dtype=np.float32) for waveform in waveforms]
        windows = np.stack([pad_or_trim(model.feature_extractor(each)[..., :-1]) for each in samples])
        results = model.model.generate(
            model.encode(windows),
            [model.get_prompt(tokenizer, [])] * len(windows),
            beam_size=self.settings.beam,
            max_length=model.max_length,
            suppress_tokens=get_suppressed_tokens(tokenizer, [-1]),
            return_scores=True,
            return_no_speech_prob=True,
        )
        found: list[Transcription | None] = []
        for result in results:
            tokens = result.sequences_ids[0]
            text = tokenizer.decode(tokens).strip()
            avg_logprob, ratio = result.scores[0] * len(tokens) / (len(tokens) + 1), get_compression_ratio(text)
            accepted = (
                avg_logprob >= LEAST_LOGPROB
                and ratio <= MOST_COMPRESSION
                and result.no_speech_prob <= MOST_NO_SPEECH
                and bool(text)
                and is_one_window(tokens, tokenizer.timestamp_begin)
            )
            measures = (avg_logprob, result.no_speech_prob, ratio, 0.0, language, 1.0)
            found.append(Transcription(" ".join(text.split()), *measures) if accepted else None)
        return found


LEAST_LOGPROB, MOST_COMPRESSION, MOST_NO_SPEECH = -1.0, 2.4, 0.6
"""faster-whisper's own thresholds for decoding a window again at a temperature, or leaving it out."""


def is_one_window(tokens: Sequence[int], first_timestamp: int) -> bool:
    """Return whether Whisper ends here: all segments have ends, and none is empty (such segments are dropped)."""
    times = [token >= first_timestamp for token in tokens]
    pairs = [index for index in range(1, len(tokens)) if times[index - 1] and times[index]]
    if not pairs:
        return True
    ended = len(tokens) >= 2 and times[-1] and not times[-2]
    borders = [0, *pairs, len(tokens)]
    lengths = [tokens[end - 1] - tokens[begin] for begin, end in itertools.pairwise(borders)]
    return ended and all(length != 0 for length in lengths)


def _summary(segments: Iterable[Any], info: Any) -> Transcription:
    segments = [segment for segment in segments if segment.text.strip()]
    language_prob = info.language_probability if math.isfinite(info.language_probability) else 0.0
    if not segments:
        return Transcription("", SILENT, 1.0, 0.0, 0.0, info.language, language_prob)
    return combine(segments, info.language, language_prob)


def combine(segments: Sequence[Any], language: str | None = None, language_prob: float | None = None) -> Transcription:
    """Join segments (of Whisper, or `TimedSegment`) into one transcription.

    The log-probability is the mean weighted by length, the other measures are the largest; a measure that a segment
    does not have is None.
    """
    lengths = [max(segment.end - segment.start, 0.01) for segment in segments]
    logprobs = [segment.avg_logprob for segment in segments]
    known = bool(logprobs) and None not in logprobs
    weighted = sum(value * length for value, length in zip(logprobs, lengths, strict=True)) if known else 0.0
    return Transcription(
        text=" ".join("".join(segment.text for segment in segments).split()),
        avg_logprob=weighted / sum(lengths) if known else None,
        no_speech_prob=_largest(segment.no_speech_prob for segment in segments),
        compression_ratio=_largest(segment.compression_ratio for segment in segments),
        temperature=_largest(segment.temperature for segment in segments),
        language=language,
        language_prob=language_prob,
    )


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def open_transcriber(settings: TranscriberSettings) -> WhisperTranscriber:
    """Open a Whisper model.

    Raises:
        MissingExtraError: faster-whisper is not installed.
        TargetsError: no such folder, another form, files that cannot be opened, arithmetic that the device does not
            have, a multilingual model without a language, or a language that the model does not have.
    """
    library = import_extra("faster_whisper", "whisper", "faster-whisper")
    folder = _local_copy(settings.source) or user_path(settings.source)
    if folder.is_dir():
        _check_form(folder)
    elif folder.exists() or not HUB_NAME.fullmatch(settings.source):
        raise TargetsError(
            "does not exist", where=folder, expected="a folder with a Whisper model in CTranslate2's form (model.bin)"
        )
    else:
        try:
            folder = Path(library.download_model(settings.source.removeprefix("openai/whisper-")))
        except Exception as error:
            raise TargetsError(
                f"the Whisper model {settings.source!r} cannot be fetched ({error})",
                expected="a model name of faster-whisper such as base or small.en, a network, or a folder",
                remedy="Download it elsewhere, copy the folder here, and give its path: whisper:FOLDER, or put it into "
                f"the folder that {MODELS_VARIABLE} names",
            ) from error
    kind, _, index = settings.device.partition(":")
    try:
        model = library.WhisperModel(
            str(folder),
            device=kind,
            device_index=int(index or 0),
            compute_type=settings.compute_type,
            cpu_threads=settings.threads,
        )
    except ValueError as error:
        raise TargetsError(
            f"CTranslate2 cannot run this model so ({error})",
            where=folder,
            expected="a compute_type and a device that this machine has; int8 and float32 run on every CPU",
            remedy="Correct compute_type or device",
        ) from error
    except Exception as error:  # of a damaged tokenizer.json it is no more precise
        raise TargetsError(
            f"CTranslate2 cannot open this model ({error})",
            where=folder,
            expected="all files of a converted Whisper model: model.bin, config.json, vocabulary, tokenizer.json",
            remedy="Copy the whole folder again, or convert the model again",
        ) from error
    if model.model.is_multilingual and settings.language is None:
        raise TargetsError(
            "this Whisper model is multilingual and no language is set",
            where=folder,
            expected="language: en (or another two-letter code)",
            remedy=SET_LANGUAGE,
        )
    if settings.language not in (None, *model.supported_languages):
        raise TargetsError(
            f"this Whisper model has no language {settings.language!r}",
            where=folder,
            expected=f"one of {', '.join(model.supported_languages)}",
            remedy=f"{SET_LANGUAGE}; a model named .en has English alone",
        )
    return WhisperTranscriber(model, settings, sha256_of_file(folder / WEIGHTS))


def _local_copy(source: str) -> Path | None:
    """The folder in CTranslate2's form that ASR_KD_MODELS holds under a model's name, with or without `-ct2`."""
    name = source.removeprefix("openai/").removeprefix("whisper-")
    names = [source, f"whisper-{name}", f"whisper-{name}-ct2"]
    return None if user_path(source).is_dir() else find_model(names, WEIGHTS)


def _check_form(folder: Path) -> None:
    if (folder / WEIGHTS).is_file():
        return
    if (folder / "model.safetensors").is_file() or (folder / "pytorch_model.bin").is_file():
        raise TargetsError(
            "holds a transformers model",
            where=folder,
            expected=f"a Whisper model in CTranslate2's form ({WEIGHTS})",
            remedy=f"Convert it: ct2-transformers-converter --model {folder} --output_dir {folder}-ct2 "
            "--copy_files tokenizer.json preprocessor_config.json --quantization int8",
        )
    raise TargetsError(
        f"has no {WEIGHTS}",
        where=folder,
        expected="a Whisper model in CTranslate2's form",
        remedy="Copy the whole folder again",
    )
