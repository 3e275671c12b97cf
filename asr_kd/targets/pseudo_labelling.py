"""Pseudo-labels from another system's transcripts: choose readings, normalize, filter.

Transcribing is slow and filtering is fast, so the transcripts are stored as the system wrote them, with its measures,
and this step is repeated whenever a threshold changes.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from pydantic import Field, field_validator, model_validator

from asr_kd.config import Settings
from asr_kd.corpora.manifest import Utterance
from asr_kd.features.fbank import SAMPLE_RATE, num_frames
from asr_kd.models.layers import output_len
from asr_kd.targets.pseudo_label_filters import FilterReport, Label, LabelFilters, apply_filters
from asr_kd.teachers.base import Teacher
from asr_kd.teachers.whisper_transcriber import Transcription
from asr_kd.text.normalize import Normalizer, normalize
from asr_kd.text.verbalize import strip_annotations, verbalize
from asr_kd.text.vocabulary import Vocabulary, min_ctc_frames

PREFIX = "whisper:"

ScoreReadings = Callable[[Utterance, Sequence[str]], Sequence[float]]
"""Log-probability, in nats, of each reading of an utterance under a CTC model."""


class LabelSettings(Settings):
    """Labels from another system's transcripts, transcribed here or imported: readings and filters."""

    language: str | None = None
    """Two letters; a multilingual Whisper needs it. It also selects how numbers are written as words."""
    verbalize: bool = True
    """Whether digits, spelled letters, abbreviations and symbols are rewritten as spoken words."""
    reading_model: str | None = None
    """A CTC teacher (local:FOLDER, hf:…, torchaudio:…) that chooses among readings; null takes the most usual one."""
    transcript_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the utterances, chosen by their ids, whose own transcripts are used instead."""
    filters: LabelFilters = LabelFilters()
    """Thresholds of the filters."""


class PseudoLabelSettings(LabelSettings):
    """Pseudo-labels of a Whisper model, for students that learn from them as from transcripts."""

    source: str
    """`whisper:NAME` (base, openai/whisper-small.en, …), first looked for in the folder that ASR_KD_MODELS names, or
    `whisper:FOLDER` with a model in CTranslate2's form."""
    beam: int = Field(default=5, ge=1)
    """Hypotheses that Whisper's decoder keeps."""
    batch: int = Field(default=1, ge=1)
    """Utterances, or voiced parts of a recording above 30 s, that are decoded together: for a GPU, on a CPU it gains
    nothing. Above 1, a part of a long recording that fails Whisper's own checks is left to the filters instead of being
    decoded again at a temperature."""
    compute_type: str = "int8"
    """Arithmetic of CTranslate2: int8, int8_float16, float16, float32."""
    agree_with: str | None = None
    """A second source, or the same one with `agree_beam`; `filters.max_disagreement` compares the two transcripts."""
    agree_beam: int | None = Field(default=None, ge=1)
    """Hypotheses that the second source's decoder keeps; null: as many as `beam`."""
    evaluate: bool = False
    """Whether the model also transcribes the evaluation sets that have transcripts, as a system of the report."""

    @model_validator(mode="after")
    def _fits_together(self) -> "PseudoLabelSettings":
        if self.agree_with is None and self.agree_beam is not None:
            raise ValueError("agree_beam is the beam of agree_with, which names no source")
        if self.agree_with == self.source and self.agree_beam in (None, self.beam):
            raise ValueError("agree_with is the source itself: name another one, or another beam (agree_beam)")
        return self

    @field_validator("source", "agree_with")
    @classmethod
    def _is_whisper(cls, source: str | None) -> str | None:
        if source is not None and not (source.startswith(PREFIX) and source.removeprefix(PREFIX).strip()):
            raise ValueError(f"expected whisper:NAME or whisper:FOLDER, found {source!r}")
        return source


class PseudoLabelled(NamedTuple):
    """Pseudo-labels and the report of the filters."""

    texts: dict[str, str]
    """Utterance id → the text to train on."""
    report: FilterReport
    own_transcripts: frozenset[str]
    """Ids of the utterances whose own transcript was used (`transcript_share`)."""


def make_pseudo_labels(
    transcriptions: Mapping[str, Transcription],
    utterances: Sequence[Utterance],
    settings: LabelSettings,
    normalizer: Normalizer,
    vocabulary: Vocabulary | None = None,
    second: Mapping[str, Transcription] | None = None,
    score_readings: ScoreReadings | None = None,
) -> PseudoLabelled:
    """Turn transcripts into pseudo-labels.

    Args:
        transcriptions: utterance id → what the system wrote; utterances without are left out.
        vocabulary: what a text must be spelled in, and CTC must emit in the audio; None: any letters and length.
        second: transcripts of the second system, where one is compared.
        score_readings: a CTC model's score of readings; None takes the most usual reading.

    Raises:
        TargetsError: there is nothing to label, or too much is filtered out.
    """
    labels: dict[str, Label] = {}
    kept_transcripts: dict[str, str] = {}
    for utterance in utterances:
        transcript = None if utterance.text is None else normalize(utterance.text, normalizer)
        if transcript and in_share(utterance.id, settings.transcript_share):
            kept_transcripts[utterance.id] = transcript
        elif utterance.id in transcriptions:
            found = transcriptions[utterance.id]
            text, margin = _choose(utterance, _readings(found.text, settings, normalizer), score_readings)
            second_text = None
            if second is not None and utterance.id in second:
                # Readings may differ ("two thirty", "two three oh") where the two systems agree.
                others = _readings(second[utterance.id].text, settings, normalizer)
                second_text = text if text in others else others[0]
            labels[utterance.id] = Label(
                **{**vars(found), "text": text},
                seconds=utterance.duration,
                second_text=second_text,
                transcript=transcript,
                reading_margin=margin,
                problem=None if vocabulary is None else _problem(text, utterance, vocabulary),
            )
    if not labels and kept_transcripts:
        return PseudoLabelled(kept_transcripts, FilterReport(()), frozenset(kept_transcripts))
    report = apply_filters(labels, settings.filters)
    texts = {id_: label.text for id_, label in labels.items() if id_ not in report.removed}
    return PseudoLabelled({**kept_transcripts, **texts}, report, frozenset(kept_transcripts))


def in_share(utterance_id: str, share: float) -> bool:
    """Return whether an utterance belongs to a share of a corpus: by the hash of its id, so that shares are nested."""
    number = int.from_bytes(hashlib.sha256(utterance_id.encode()).digest()[:8], "big")
    return number < share * 2**64


def ctc_reading_scorer(
    teacher: Teacher, normalizer: Normalizer, read: Callable[[Utterance], torch.Tensor]
) -> ScoreReadings:
    """Score readings by the log-probability that a CTC model gives them, summed over all alignments.

    Args:
        teacher: in a vocabulary of its own; readings that it cannot spell get −inf, all of them in audio that is too
            short for it.
        read: the utterance's waveform, [S] at 16 kHz.
    """

    def scores(utterance: Utterance, readings: Sequence[str]) -> list[float]:
        waveform = read(utterance)
        dense = teacher.log_probs(waveform[None], torch.tensor([len(waveform)]))
        frames = int(dense.lens[0])
        if frames == 0:
            return [float("-inf")] * len(readings)
        blank_id = teacher.vocabulary.blank_id
        found = []
        for reading in readings:
            text = normalize(reading, normalizer)
            if teacher.vocabulary.unknown_characters(text):
                found.append(float("-inf"))
                continue
            tokens = torch.tensor([teacher.vocabulary.encode(text)], dtype=torch.int64)
            loss = torch.nn.functional.ctc_loss(
                dense.log_probs[:, :frames].transpose(0, 1),
                tokens,
                torch.tensor([frames]),
                torch.tensor([tokens.shape[1]]),
                blank=blank_id,
                reduction="sum",
            )
            found.append(-float(loss))
        return found

    return scores


def read_out(
    utterance: Utterance,
    text: str,
    settings: LabelSettings,
    normalizer: Normalizer,
    score_readings: ScoreReadings | None = None,
) -> str:
    """A system's text as it is spoken, normalized: the best reading, or the most usual one without a CTC model."""
    return _choose(utterance, _readings(text, settings, normalizer), score_readings)[0]


def _readings(text: str, settings: LabelSettings, normalizer: Normalizer) -> list[str]:
    """Normalized readings, the most usual first."""
    written = verbalize(text, settings.language or "en") if settings.verbalize else [strip_annotations(text)]
    return list(dict.fromkeys(normalize(reading, normalizer) for reading in written))


def _choose(
    utterance: Utterance, readings: Sequence[str], score_readings: ScoreReadings | None
) -> tuple[str, float | None]:
    """The best reading and the nats by which it is ahead; None where nothing was compared."""
    if score_readings is None or len(readings) == 1:
        return readings[0], None
    scored = sorted(zip(score_readings(utterance, readings), readings, strict=True), key=lambda pair: -pair[0])
    (best, text), (next_best, _) = scored[:2]
    if best == float("-inf"):
        return readings[0], 0.0
    return text, best - next_best


def _problem(text: str, utterance: Utterance, vocabulary: Vocabulary) -> str | None:
    """Return why no student can be trained on this text, or None."""
    unknown = vocabulary.unknown_characters(text)
    if unknown:
        return f"characters outside the vocabulary: {' '.join(unknown)}"
    frames = output_len(num_frames(round(utterance.duration * SAMPLE_RATE)))
    return None if min_ctc_frames(vocabulary.encode(text)) <= frames else "too long for CTC in its audio"
