"""Identity of utterances' audio, by which targets of other audio under the same ids are noticed."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asr_kd.corpora.manifest import Utterance
from asr_kd.files import sha256_of

BLOCK_BYTES = 16_384
"""Read at the start, in the middle and at the end of a file: whole corpora would take minutes."""

THREADS = 8
"""Files are read in parallel, because most of the time is waiting for the disk."""


def audio_identities(utterances: Iterable[Utterance]) -> dict[str, str]:
    """Return the identity of each utterance's audio, 16 hex digits, by id; empty where its file cannot be read.

    It covers the file's size, three blocks of it, and the utterance's start and duration. Paths are not part of it:
    corpora move between machines.
    """
    given = list(utterances)
    paths = list(dict.fromkeys(utterance.audio for utterance in given))
    with ThreadPoolExecutor(THREADS) as pool:
        files = dict(zip(paths, pool.map(_sampled_sha256, paths), strict=True))
    return {u.id: _identity(files[u.audio], u) for u in given}


def audio_sha256(utterances: Sequence[Utterance]) -> str:
    """Return one hash for the audio of several utterances, with their ids, in any order."""
    return sha256_of(sorted(audio_identities(utterances).items()))


def _identity(file_sha256: str, utterance: Utterance) -> str:
    if not file_sha256:
        return ""
    return sha256_of([file_sha256, round(utterance.start, 4), round(utterance.duration, 4)])[:16]


def _sampled_sha256(path: Path) -> str:
    try:
        size = path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with path.open("rb") as file:
            for start in (0, size // 2, max(size - BLOCK_BYTES, 0)):
                file.seek(start)
                digest.update(file.read(BLOCK_BYTES))
    except OSError:
        return ""
    return digest.hexdigest()
