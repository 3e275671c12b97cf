"""A corpus synthesized by eSpeak NG, in LibriSpeech's layout: for demos and tests, offline.

A speaker is a voice × speaking rate × pitch; no voice is in two splits. Sentences come from the grammar; none is in two
splits. The same settings give the same bytes (with the same versions of eSpeak NG and libsndfile). Results on this
corpus are no evidence about real speech.

eSpeak NG is GPL: it is installed through the optional package espeakng-loader and is not part of this one.
"""

import os
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr_kd.corpora.grammar import grammar_text, parse_grammar
from asr_kd.corpora.settings import SyntheticSettings
from asr_kd.corpora.speech_engines import (
    ACCENT,
    ENGINES,
    FEMALE,
    MALE,
    EngineSpeaker,
    as_recorded,
    require_engine,
    synthesize,
    write_flac,
)
from asr_kd.errors import CorpusError
from asr_kd.files import atomic_folder, read_json, sha256_of, write_json, write_text
from asr_kd.progress import SILENT, Progress

SPLITS = ("train", "dev", "test")

VERSION = 3
"""Incremented whenever the same settings give other audio or sentences."""

DESCRIPTION = "synthetic.json"
"""File with the settings of a corpus."""

ENGINE = ENGINES["espeak"]


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
        return "F" if self.voice in FEMALE else "M"


def write_synthetic(settings: SyntheticSettings, folder: Path, progress: Progress = SILENT) -> None:
    """Write the corpus, whole or not at all, unless it already exists with these settings.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
        CorpusError: `folder` holds something else, the grammar is too small, or eSpeak NG failed.
    """
    key = settings_key(settings)
    if _is_complete(folder, key):
        return
    require_engine(ENGINE)
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
                waiting.append(pool.submit(_write_speaker, speaker, own, settings, partial))
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
    voices = [*FEMALE, *MALE]
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
                    words_per_minute=generator.randint(*ENGINE.rates),
                    pitch=generator.randint(*ENGINE.pitches),
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


def _write_speaker(speaker: Speaker, sentences: Sequence[str], settings: SyntheticSettings, corpus: Path) -> None:
    """Synthesize, degrade and write one speaker's chapter."""
    chapter = corpus / speaker.split / speaker.id / "1"
    chapter.mkdir(parents=True)
    name = f"{speaker.id}-1"
    voice = EngineSpeaker(
        speaker.id, f"{ACCENT}+{speaker.voice}", speaker.words_per_minute, speaker.pitch, seed=int(speaker.id)
    )
    for index, speech in enumerate(synthesize(ENGINE, voice, sentences)):
        seed = int(sha256_of([settings.seed, speaker.id, index])[:16], 16)
        samples = as_recorded(speech, ENGINE, settings.noise_db, np.random.default_rng(seed))
        write_flac(chapter / f"{name}-{index:04d}.flac", samples)
    lines = [f"{name}-{index:04d} {sentence.upper()}\n" for index, sentence in enumerate(sentences)]
    (chapter / f"{name}.trans.txt").write_text("".join(lines), encoding="utf-8")


def _speakers_table(speakers: Sequence[Speaker]) -> str:
    rows = [";ID  |SEX| SUBSET | MINUTES | NAME (voice of eSpeak NG, words a minute, pitch)\n"]
    rows += [
        f"{speaker.id} | {speaker.sex} | {speaker.split} | - | {ACCENT}+{speaker.voice}, "
        f"{speaker.words_per_minute}, {speaker.pitch}\n"
        for speaker in speakers
    ]
    return "".join(rows)
