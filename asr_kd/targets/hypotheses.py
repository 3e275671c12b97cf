"""Hypothesis store: texts of utterances with scores, for sequence-level distillation.

A folder of JSON Lines shards and `hypotheses.json` with source, normalizer and every shard's SHA-256. Text suits
students of any vocabulary and frame rate. `nbest`, `importing` and `pseudo_labelling` make such stores.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from asr_kd.config import Settings
from asr_kd.corpora.fingerprint import audio_identities
from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import TargetsError
from asr_kd.files import loads_json
from asr_kd.targets.shard_manifest import StoreIndex, read_json_lines
from asr_kd.targets.storage import Storage, open_storage
from asr_kd.text.normalize import Normalizer

HYPOTHESES_INDEX = "hypotheses.json"
MAKE_AGAIN = "Extract or import them again into an empty folder"


class TextHypothesis(NamedTuple):
    """One transcript of a system."""

    text: str
    score: float | None = None
    """A log-probability, or any number of which 1 more means e times as likely; None: only the order is known."""


def distinct(hypotheses: Iterable[TextHypothesis], most: int | None = None) -> list[TextHypothesis]:
    """The best `most` different texts that hold a word, the probabilities of equal ones added, best first."""
    merged: dict[str, float | None] = {}
    for text, score in hypotheses:
        before = merged.get(text)
        merged[text] = score if before is None or score is None else float(np.logaddexp(before, score))
    found = [TextHypothesis(text, score) for text, score in merged.items() if text.strip()]
    if all(item.score is not None for item in found):
        found.sort(key=lambda item: -(item.score or 0.0))  # stable: equals keep their order
    return found[:most]


def weights_of(hypotheses: Sequence[TextHypothesis], temperature: float = 1.0) -> list[float]:
    """Weights that sum to 1: the softmax of the scores divided by `temperature`; equal where there are none."""
    scores = [item.score for item in hypotheses if item.score is not None]
    if len(scores) != len(hypotheses):
        return [1.0 / len(hypotheses)] * len(hypotheses)
    best = max(scores, default=0.0)
    relative = [math.exp((score - best) / temperature) for score in scores]
    return [value / sum(relative) for value in relative]


class HypothesesSource(Settings):
    """Source of hypotheses."""

    kind: Literal["teacher", "imported", "pseudo-labels"]
    name: str
    """Of the teacher, or of the file."""
    sha256: str
    """Of the teacher's weights, or of what was read."""


class HypothesesInfo(StoreIndex):
    """Content of `hypotheses.json`."""

    index: ClassVar[str] = HYPOTHESES_INDEX
    contents: ClassVar[str] = "hypotheses"
    made_by: ClassVar[str] = "`asr-kd extract` or `asr-kd targets import`"
    make_again: ClassVar[str] = MAKE_AGAIN

    format: Literal["asr-kd hypotheses"] = "asr-kd hypotheses"
    version: Literal[2] = 2
    source: HypothesesSource
    normalizer: Normalizer
    """Of the texts."""
    manifest_sha256: str
    """Of ids and durations, see `sharding.manifest_sha256`."""
    settings: dict[str, Any]
    """Settings of their making; plain data."""


class HypothesisStore(Mapping[str, list[TextHypothesis]]):
    """Hypotheses by utterance; made by `HypothesisStore.open`. They fit into memory: text is small."""

    def __init__(self, storage: Storage, info: HypothesesInfo, rows: dict[str, bytes]) -> None:
        self.storage, self.info = storage, info
        self._rows = rows

    @classmethod
    def open(
        cls, folder: Path | str, normalizer: Normalizer | None = None, source_sha256: str | None = None
    ) -> "HypothesisStore":
        """Read a folder of hypotheses and compare it with what the caller expects.

        Args:
            normalizer: of the student's transcripts; None does not compare.
            source_sha256: of the weights of the teacher that the recipe names; None does not compare.

        Raises:
            TargetsError: another version, normalizer or teacher; unfinished; or a part is missing or damaged.
        """
        storage = open_storage(folder)
        info = HypothesesInfo.read(storage, partial=False)
        if normalizer is not None and normalizer != info.normalizer:
            raise TargetsError(
                f"hypotheses under the normalizer {info.normalizer!r}",
                expected=f"{normalizer!r}, as the recipe's transcripts",
                where=str(storage),
                remedy=f"{MAKE_AGAIN}, with the recipe's normalizer",
            )
        if source_sha256 is not None and source_sha256 != info.source.sha256:
            raise TargetsError(
                f"hypotheses of {info.source.name!r} with weights {info.source.sha256[:12]}…",
                expected=f"weights {source_sha256[:12]}…: the teacher has changed since, or is another one",
                where=str(storage),
                remedy=MAKE_AGAIN,
            )
        return cls(storage, info, {loads_json(line)["id"]: line for line in read_json_lines(storage, info)})

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, utterance_id: object) -> bool:
        return utterance_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __getitem__(self, utterance_id: str) -> list[TextHypothesis]:
        """Return hypotheses, the best first; none when the system recognized no word.

        Raises:
            KeyError: the utterance is not stored.
        """
        return [TextHypothesis(item["text"], item["score"]) for item in loads_json(self._rows[utterance_id])["nbest"]]

    def check_audio(self, utterances: Sequence[Utterance]) -> None:
        """Refuse hypotheses of other audio than is there now under the same ids; utterances without any are ignored.

        Raises:
            TargetsError: the audio of some has changed since.
        """
        now = audio_identities(utterance for utterance in utterances if utterance.id in self)
        stated = {id_: loads_json(self._rows[id_]).get("audio") for id_ in now}
        changed = [id_ for id_, audio in now.items() if stated[id_] and audio and stated[id_] != audio]
        if changed:
            raise TargetsError(
                f"hypotheses of other audio than the corpus holds now under {len(changed)} of the same ids, such as "
                f"{changed[0]!r}",
                where=str(self.storage),
                expected="the audio that was transcribed",
                remedy="Run the extract stage first (asr-kd extract), or import them again",
            )


def hypothesis_rows(
    found: Mapping[str, Sequence[TextHypothesis]], utterances: Iterable[Utterance]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a shard, one an utterance, with the identity of its audio; other utterances are ignored."""
    audio = audio_identities(utterance for utterance in utterances if utterance.id in found)
    for id_, hypotheses in sorted(found.items()):
        yield {"id": id_, "audio": audio.get(id_, ""), "nbest": [item._asdict() for item in hypotheses]}
