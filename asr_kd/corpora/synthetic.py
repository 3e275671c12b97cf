"""A corpus synthesized by eSpeak NG, in LibriSpeech's layout: for demos and tests, offline.

A speaker is a voice × speaking rate × pitch; no voice is in two splits. Sentences come from the grammar; none is in two
splits. The same settings give the same bytes (with the same versions of eSpeak NG and libsndfile). Results on this
corpus are no evidence about real speech.

eSpeak NG is GPL: it is installed through the optional package espeakng-loader and is not part of this one.
"""

import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from asr_kd.audio import SAMPLE_RATE, resample
from asr_kd.corpora import espeak_worker
from asr_kd.corpora.grammar import grammar_text, parse_grammar
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.errors import CorpusError, import_extra
from asr_kd.files import atomic_folder, read_json, sha256_of, write_json, write_text
from asr_kd.progress import SILENT, Progress

SPLITS = ("train", "dev", "test")

VERSION = 3
"""Incremented whenever the same settings give other audio or sentences."""

DESCRIPTION = "synthetic.json"
"""File with the settings of a corpus."""

# Variants of eSpeak NG that resemble a person. Robots, whispers and extreme voices are left out (kaukovalta, whose
# first formant has 40 % of its strength; RicishayMax, which has an echo).
_FEMALE = ("f1", "f2", "f3", "f4", "f5", "Alicia", "Annie", "aunty", "belinda", "grandma", "linda")
_MALE = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "Alex", "Andy", "Denis", "Hugo", "Lee", "Mario", "Michael"),
    *("Mike", "Nguyen", "adam", "benjamin", "boris", "edward2", "grandpa", "klatt3"),
    *("klatt4", "klatt5", "klatt6", "marcelo", "max", "michel", "quincy", "rob", "robert", "victor"),
)
ACCENT = "en-us"
_WORDS_PER_MINUTE = (145, 200)
_PITCH = (35, 65)  # of 0 to 99, within a voice's own range
_PEAK_DB = (-15.0, -3.0)
_PAUSE_SECONDS = (0.05, 0.3)  # before and after the speech, so that its start varies


@dataclass(frozen=True)
class Speaker:
    """One synthetic speaker."""

    id: str
    split: str
    voice: str
    words_per_minute: int
    pitch: int

    @property
    def sex(self) -> str:
        """F or M, according to the voice."""
        return "F" if self.voice in _FEMALE else "M"


def write_synthetic(settings: SyntheticSettings, folder: Path, progress: Progress = SILENT) -> None:
    """Write the corpus, whole or not at all, unless it already exists with these settings.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
        CorpusError: `folder` holds something else, the grammar is too small, or eSpeak NG failed.
    """
    key = settings_key(settings)
    if _is_complete(folder, key):
        return
    loader = import_extra("espeakng_loader", "synthetic", "espeakng-loader")
    espeak = loader.get_library_path(), loader.get_data_path()
    with atomic_folder(folder, guard=True) as partial:
        speakers = make_speakers(settings)
        sentences = make_sentences(settings)
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            waiting: list[Future[None]] = []
            of_split: Counter[str] = Counter()
            for speaker in speakers:
                split = speaker.split
                own = sentences[split][of_split[split] :: _speakers_of(settings, split)]
                of_split[split] += 1
                waiting.append(pool.submit(_write_speaker, speaker, own, settings, partial, espeak))
            _follow(waiting, progress)
        write_text(partial / "SPEAKERS.TXT", _speakers_table(speakers))
        write_json(
            partial / DESCRIPTION, {"key": key, "version": VERSION, "settings": settings.model_dump(mode="json")}
        )


def synthetic_folder(settings: SyntheticSettings, work_dir: Path) -> Path:
    """Folder of the corpus of a run in `work_dir`."""
    return (settings.root or work_dir / "corpus") / "synthetic"


def settings_key(settings: SyntheticSettings) -> str:
    """Hash of everything that the corpus depends on: settings without `root`, grammar, version."""
    return sha256_of([VERSION, settings.model_dump(mode="json", exclude={"root"}), grammar_text()])


def make_speakers(settings: SyntheticSettings) -> list[Speaker]:
    """Return the speakers of all splits.

    Voices are distributed over splits in proportion to their numbers of speakers, and reused at another rate and pitch
    only where a split has more speakers than voices.
    """
    generator = random.Random(f"speakers {settings.seed}")
    voices = [*_FEMALE, *_MALE]
    generator.shuffle(voices)
    total = sum(_speakers_of(settings, split) for split in SPLITS)
    speakers: list[Speaker] = []
    start = 0
    for split in ("test", "dev", "train"):
        share = max(1, len(voices) * _speakers_of(settings, split) // total)
        own = voices[start:] if split == "train" else voices[start : start + share]
        start += share
        for index in range(_speakers_of(settings, split)):
            speakers.append(
                Speaker(
                    id=str(1000 * (SPLITS.index(split) + 1) + index),
                    split=split,
                    voice=own[index % len(own)],
                    words_per_minute=generator.randint(*_WORDS_PER_MINUTE),
                    pitch=generator.randint(*_PITCH),
                )
            )
    return sorted(speakers, key=lambda speaker: int(speaker.id))


def make_sentences(settings: SyntheticSettings) -> dict[str, list[str]]:
    """Return distinct sentences of every split; evaluation sets are drawn first, so they depend on their size only."""
    grammar = parse_grammar(grammar_text()).about(settings.topics)
    taken: set[str] = set()
    return {
        split: grammar.distinct_sentences(
            getattr(settings, f"{split}_utterances"), random.Random(f"{split} {settings.seed}"), taken
        )
        for split in ("test", "dev", "train")
    }


def _speakers_of(settings: SyntheticSettings, split: str) -> int:
    count: int = getattr(settings, f"{split}_speakers")
    return count


def _is_complete(folder: Path, key: str) -> bool:
    """Whether the corpus exists; a folder that this module did not write is never replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = read_json(folder / DESCRIPTION)["key"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            "is not a synthetic corpus of this program",
            where=folder,
            expected=f"nothing, or a corpus with its {DESCRIPTION}",
            remedy="Choose another corpus.root, or remove the folder yourself",
        ) from error
    return bool(found == key)


def _follow(waiting: Sequence["Future[None]"], progress: Progress) -> None:
    try:
        for done, future in enumerate(as_completed(waiting), start=1):
            future.result()
            progress.update("synthetic speech", done, len(waiting), "speakers")
    finally:
        for future in waiting:
            future.cancel()


def _write_speaker(
    speaker: Speaker, sentences: Sequence[str], settings: SyntheticSettings, corpus: Path, espeak: tuple[str, str]
) -> None:
    """Synthesize, degrade and write one speaker's chapter."""
    chapter = corpus / speaker.split / speaker.id / "1"
    chapter.mkdir(parents=True)
    name = f"{speaker.id}-1"
    with tempfile.TemporaryDirectory() as scratch:
        _synthesize(speaker, sentences, Path(scratch), espeak)
        for index in range(len(sentences)):
            speech = np.fromfile(Path(scratch) / f"{index}.pcm", dtype="<i2").astype(np.float32) / 32768
            seed = int(sha256_of([settings.seed, speaker.id, index])[:16], 16)
            samples = _degrade(speech, settings, np.random.default_rng(seed))
            file = io.BytesIO()  # in memory, because soundfile flushes every file to the disk
            soundfile.write(file, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
            (chapter / f"{name}-{index:04d}.flac").write_bytes(file.getvalue())
    lines = [f"{name}-{index:04d} {sentence.upper()}\n" for index, sentence in enumerate(sentences)]
    (chapter / f"{name}.trans.txt").write_text("".join(lines), encoding="utf-8")


def _synthesize(speaker: Speaker, sentences: Sequence[str], scratch: Path, espeak: tuple[str, str]) -> None:
    job = {
        "library": espeak[0],
        "data": espeak[1],
        "voice": f"{ACCENT}+{speaker.voice}",
        "words_per_minute": speaker.words_per_minute,
        "pitch": speaker.pitch,
        "seed": int(speaker.id),
        "texts": list(sentences),
        "folder": str(scratch),
    }
    # Isolated and without site-packages: the worker needs only the standard library and starts faster.
    command = [sys.executable, "-I", "-S", espeak_worker.__file__]
    result = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise CorpusError(
            f"eSpeak NG stopped with status {result.returncode}: {result.stderr.strip()[-300:] or 'no message'}",
            where=f"speaker {speaker.id} ({job['voice']})",
            expected="synthesized sentences",
            remedy="Install espeakng-loader again (pip install --force-reinstall espeakng-loader)",
        )


def _degrade(spoken: np.ndarray, settings: SyntheticSettings, generator: np.random.Generator) -> np.ndarray:
    """Resample to 16 kHz, and add a random level, pauses and white noise."""
    audible = np.flatnonzero(np.abs(spoken) > 1e-3)
    if len(audible) == 0:
        raise CorpusError(
            "eSpeak NG gave no audible samples", expected="speech", remedy="Install espeakng-loader again"
        )
    speech = resample(spoken[audible[0] : audible[-1] + 1], espeak_worker.SAMPLE_RATE, SAMPLE_RATE)
    speech = speech * (_amplitude(generator.uniform(*_PEAK_DB)) / np.abs(speech).max())
    before, after = (int(generator.uniform(*_PAUSE_SECONDS) * SAMPLE_RATE) for _ in range(2))
    padded = np.pad(speech, (before, after))
    noise = generator.standard_normal(len(padded)) * _amplitude(generator.uniform(*settings.noise_db))
    return np.clip(padded + noise, -1.0, 1.0).astype(np.float32)


def _amplitude(decibels: float) -> float:
    return float(10 ** (decibels / 20))


def _speakers_table(speakers: Sequence[Speaker]) -> str:
    rows = [";ID  |SEX| SUBSET | MINUTES | NAME (voice of eSpeak NG, words a minute, pitch)\n"]
    rows += [
        f"{speaker.id} | {speaker.sex} | {speaker.split} | - | {ACCENT}+{speaker.voice}, "
        f"{speaker.words_per_minute}, {speaker.pitch}\n"
        for speaker in speakers
    ]
    return "".join(rows)
