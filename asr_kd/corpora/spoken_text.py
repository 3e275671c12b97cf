"""Speech synthesized from text, with its transcripts in a manifest: a teacher learns words from it that the recorded
training speech does not hold (`further_speech` of a recipe). It is no evidence about real speech.

A speaker is a voice × rate × pitch. The same text and settings give the same bytes (with the same versions of the
engine and libsndfile).
"""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from asr_kd.audio import SAMPLE_RATE
from asr_kd.corpora.manifest import Utterance, hours, write_manifest
from asr_kd.corpora.speech_engines import (
    AUDIBLE,
    ENGINES,
    Engine,
    EngineName,
    EngineSpeaker,
    as_recorded,
    require_engine,
    synthesize,
    write_flac,
)
from asr_kd.errors import CorpusError
from asr_kd.files import atomic_folder, sha256_of, write_json
from asr_kd.progress import SILENT, Progress

MANIFEST = "manifest.jsonl"
DESCRIPTION = "synthesis.json"
"""File with the settings and what came of them."""

WORDS = (8, 24)
"""Fewest and most words of an utterance that is cut from a longer sentence."""
_NOISE_DB = (-70.0, -45.0)
_PER_JOB = 10
_SECONDS_A_WORD = 0.25  # less than any voice needs: how much text is read at most


@dataclass(frozen=True)
class SynthesisSettings:
    """What is synthesized.

    Attributes:
        hours: of speech; less where the text is shorter.
        speakers: each is a voice at a rate and a pitch of its own; they take turns.
    """

    hours: float
    engine: EngineName = "pico"
    speakers: int = 40
    seed: int = 0


def synthesize_text(
    sentences: Iterable[str], folder: Path, settings: SynthesisSettings, progress: Progress = SILENT
) -> list[str]:
    """Write `folder`, whole or not at all: FLAC files by speaker, their manifest, the settings; return report lines.

    Args:
        sentences: normalized text. They are drawn in random order, and long ones are cut.
        folder: new, or written by an earlier call, which it replaces.

    Raises:
        MissingExtraError: the engine is not installed.
        CorpusError: no text, the engine failed, or `folder` holds something else.
    """
    engine = ENGINES[settings.engine]
    require_engine(engine)
    texts = utterance_texts(sentences, settings)
    if not texts:
        raise CorpusError("the text holds no sentence", expected="a sentence a line")
    wanted, seconds, silent = 3600 * settings.hours, 0.0, 0
    written: list[Utterance] = []
    with atomic_folder(folder, guard=True) as partial:
        for number, (speaker, text, samples) in enumerate(_spoken(engine, _speakers(settings), texts)):
            if not (np.abs(samples) > AUDIBLE).any():
                silent += 1
                continue
            name = f"{speaker.id}-{number:06d}"
            generator = np.random.default_rng(int(sha256_of([settings.seed, name])[:16], 16))
            recorded = as_recorded(samples, engine, _NOISE_DB, generator)
            (partial / speaker.id).mkdir(exist_ok=True)
            write_flac(partial / speaker.id / f"{name}.flac", recorded)
            audio = folder.absolute() / speaker.id / f"{name}.flac"
            written.append(Utterance(name, audio, len(recorded) / SAMPLE_RATE, text, speaker.id))
            seconds += written[-1].duration
            progress.update("synthesize", min(seconds, wanted) / 60, wanted / 60, "minutes")
            if seconds >= wanted:
                break
        write_manifest(partial / MANIFEST, written)
        write_json(partial / DESCRIPTION, {**asdict(settings), "utterances": len(written), "silent": silent})
    speakers = len({utterance.speaker for utterance in written})
    report = [f"{folder / MANIFEST}: {len(written)} utterances, {hours(written):.2f} h, {speakers} speakers"]
    if seconds < wanted:
        report.append(f"  the text ends there: {settings.hours:g} h were asked for")
    if silent:
        report.append(f"  {silent} sentences left out, of which {engine.title} gave no sound")
    return report


def _spoken(
    engine: Engine, speakers: Sequence[EngineSpeaker], texts: Sequence[str]
) -> Iterator[tuple[EngineSpeaker, str, np.ndarray]]:
    """Speaker, text and samples in the order of the texts; speakers take turns, several are synthesized at once."""
    jobs = [texts[start : start + _PER_JOB] for start in range(0, len(texts), _PER_JOB)]
    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), workers):
            some = range(start, min(start + workers, len(jobs)))
            voices = [speakers[number % len(speakers)] for number in some]
            # In lower case, because words in capitals may be spelled letter by letter.
            lower = [[text.lower() for text in jobs[number]] for number in some]
            done = pool.map(lambda voice, job: synthesize(engine, voice, job), voices, lower)
            for voice, number, samples in zip(voices, some, done, strict=True):
                yield from ((voice, *pair) for pair in zip(jobs[number], samples, strict=True))


def utterance_texts(sentences: Iterable[str], settings: SynthesisSettings) -> list[str]:
    """Utterances in random order, as many as the hours may need."""
    generator = random.Random(f"text {settings.seed}")
    lines = [sentence.split() for sentence in sentences]
    generator.shuffle(lines)
    left = 3600 * settings.hours / _SECONDS_A_WORD
    texts: list[str] = []
    for words in lines:
        while words and left > 0:
            count = generator.randint(*WORDS)
            count = len(words) if len(words) - count < WORDS[0] else count
            texts.append(" ".join(words[:count]))
            words, left = words[count:], left - count
    return texts


def _speakers(settings: SynthesisSettings) -> list[EngineSpeaker]:
    engine, generator = ENGINES[settings.engine], random.Random(f"speakers {settings.seed}")
    return [
        EngineSpeaker(
            id=f"{engine.name}{number}",
            voice=engine.voices[number % len(engine.voices)],
            rate=generator.randint(*engine.rates),
            pitch=generator.randint(*engine.pitches),
            seed=number,
        )
        for number in range(settings.speakers)
    ]
