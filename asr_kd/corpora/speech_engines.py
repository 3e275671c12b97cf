"""Speech synthesizers: eSpeak NG (formant synthesis, many voices) and SVOX Pico (statistical, two English voices).

Both are optional packages with licences of their own (GPL-3.0 and Apache-2.0). The sentences of one call are
synthesized in a process of their own, so that the samples depend on them only, and a crash of the library does not end
the caller.
"""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import soundfile

from asr_kd.audio import SAMPLE_RATE, resample
from asr_kd.corpora import espeak_worker, pico_worker
from asr_kd.errors import CorpusError, import_extra

EngineName = Literal["pico", "espeak"]

# Variants of eSpeak NG that resemble a person. Robots, whispers and extreme voices are left out (kaukovalta, whose
# first formant has 40 % of its strength; RicishayMax, which has an echo).
FEMALE = ("f1", "f2", "f3", "f4", "f5", "Alicia", "Annie", "aunty", "belinda", "grandma", "linda")
MALE = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Andy", "Denis", "Hugo", "Lee", "Mario", "Michael"),
    *("Mike", "Nguyen", "adam", "benjamin", "boris", "edward2", "grandpa", "klatt3"),
    *("klatt4", "klatt5", "klatt6", "marcelo", "max", "michel", "quincy", "rob", "robert", "victor"),
)
ACCENT = "en-us"
"""eSpeak NG's language; a voice is written ``en-us+f1``."""

AUDIBLE = 1e-3
"""Smaller samples count as silence."""

_PEAK_DB = (-15.0, -3.0)
_PAUSE_SECONDS = (0.05, 0.3)  # before and after the speech, so that its start varies


@dataclass(frozen=True)
class Engine:
    """A synthesizer: its English voices, and the ranges in which its speakers differ, in its own units."""

    name: EngineName
    title: str
    package: str
    voices: tuple[str, ...]
    rates: tuple[int, int]
    pitches: tuple[int, int]
    worker: ModuleType


ENGINES: dict[EngineName, Engine] = {
    "pico": Engine(
        "pico", "SVOX Pico", "ttspico", ("en-US", "en-GB"), (85, 120), (75, 130), pico_worker,
    ),
    "espeak": Engine(
        "espeak", "eSpeak NG", "espeakng-loader",
        tuple(f"{ACCENT}+{voice}" for voice in (*FEMALE, *MALE)), (145, 200), (35, 65), espeak_worker,
    ),
}  # fmt: skip
"""Rates and pitches: percent of the voice's own for Pico; words a minute and 0 to 99 for eSpeak NG."""


@dataclass(frozen=True)
class EngineSpeaker:
    """A voice at a rate and a pitch; the seed is that of the engine's own randomness (eSpeak NG)."""

    id: str
    voice: str
    rate: int
    pitch: int
    seed: int


def require_engine(engine: Engine) -> Any:
    """Return the engine's package.

    Raises:
        MissingExtraError: it is not installed.
    """
    if engine.name == "pico":
        return import_extra("ttspico", "pico")
    return import_extra("espeakng_loader", "synthetic", "espeakng-loader")


def synthesize(engine: Engine, speaker: EngineSpeaker, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the samples of each text, float32 in [−1, 1) at the worker's SAMPLE_RATE.

    Raises:
        MissingExtraError: the engine's package is not installed.
        CorpusError: the engine failed.
    """
    package = require_engine(engine)
    job = {**asdict(speaker), "texts": list(texts)}
    options = []
    if engine.name == "espeak":
        job |= {"library": package.get_library_path(), "data": package.get_data_path()}
        options = ["-S"]  # no site-packages: this worker needs only the standard library, and starts faster
    command = [sys.executable, "-I", *options, str(engine.worker.__file__)]
    with tempfile.TemporaryDirectory() as scratch:
        job["folder"] = scratch
        result = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise CorpusError(
                f"{engine.title} stopped with status {result.returncode}: "
                f"{result.stderr.strip()[-300:] or 'no message'}",
                where=f"speaker {speaker.id} ({speaker.voice})",
                expected="synthesized sentences",
                remedy=f"Install {engine.package} again (pip install --force-reinstall {engine.package})",
            )
        files = (Path(scratch) / f"{index}.pcm" for index in range(len(texts)))
        return [np.fromfile(file, dtype="<i2").astype(np.float32) / 32768 for file in files]


def as_recorded(
    spoken: np.ndarray, engine: Engine, noise_db: tuple[float, float], generator: np.random.Generator
) -> np.ndarray:
    """Resample synthesized samples to 16 kHz, and add a random level, pauses and white noise.

    Raises:
        CorpusError: there is nothing audible in them.
    """
    audible = np.flatnonzero(np.abs(spoken) > AUDIBLE)
    if len(audible) == 0:
        raise CorpusError(
            f"{engine.title} gave no audible samples", expected="speech", remedy=f"Install {engine.package} again"
        )
    speech = resample(spoken[audible[0] : audible[-1] + 1], engine.worker.SAMPLE_RATE, SAMPLE_RATE)
    speech = speech * (_amplitude(generator.uniform(*_PEAK_DB)) / np.abs(speech).max())
    before, after = (int(generator.uniform(*_PAUSE_SECONDS) * SAMPLE_RATE) for _ in range(2))
    padded = np.pad(speech, (before, after))
    noise = generator.standard_normal(len(padded)) * _amplitude(generator.uniform(*noise_db))
    return np.clip(padded + noise, -1.0, 1.0).astype(np.float32)


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write samples at 16 kHz as FLAC of 16 bits."""
    file = io.BytesIO()  # in memory, because soundfile flushes every file to the disk
    soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    path.write_bytes(file.getvalue())


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))
