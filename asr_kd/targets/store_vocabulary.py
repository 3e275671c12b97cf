"""A store's copy of its vocabulary."""

from pathlib import Path
from tempfile import TemporaryDirectory

from asr_kd.errors import TargetsError
from asr_kd.targets.storage import Storage
from asr_kd.targets.store import EXTRACT_AGAIN, VOCABULARY, StoreInfo
from asr_kd.text.vocabulary import Vocabulary

FILES = (VOCABULARY, "bpe.model")
"""What a vocabulary may be saved as."""


def write_vocabulary(place: Storage, vocabulary: Vocabulary) -> None:
    """Write the vocabulary beside the index, unless it is there."""
    there = place.sizes()
    with TemporaryDirectory() as folder:
        vocabulary.save(Path(folder) / VOCABULARY)
        for path in sorted(Path(folder).iterdir()):
            content = path.read_bytes()
            if path.name not in there or place.read(path.name) != content:
                place.write(path.name, content)


def read_vocabulary(place: Storage, info: StoreInfo) -> Vocabulary:
    """Read the vocabulary of a store.

    Raises:
        TargetsError: it is not there, or not the one that the index names.
        VocabularyError: it is damaged.
    """
    there = place.sizes()
    with TemporaryDirectory() as folder:
        for name in FILES:
            if name in there:
                (Path(folder) / name).write_bytes(place.read(name))
        found = Vocabulary.load(Path(folder) / VOCABULARY) if VOCABULARY in there else None
    if found is None or found.sha256 != info.vocabulary.sha256:
        raise TargetsError(
            "is not there" if found is None else f"holds other symbols: {len(found)}, SHA-256 {found.sha256[:12]}…",
            where=f"{place}/{VOCABULARY}",
            expected=f"the {info.vocabulary.size} symbols of SHA-256 {info.vocabulary.sha256[:12]}…",
            remedy=f"Copy the student's tokens.txt there. {EXTRACT_AGAIN}" if found is None else EXTRACT_AGAIN,
        )
    return found
