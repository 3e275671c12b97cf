"""The systems that are compared: a name, a role and something that transcribes, or a file of hypotheses.

Shapes: S samples.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from asr_kd.audio import SAMPLE_RATE
from asr_kd.config import user_path
from asr_kd.corpora.manifest import Utterance
from asr_kd.corpora.recordings import readable_utterances
from asr_kd.errors import EvaluationError
from asr_kd.files import sha256_of_file
from asr_kd.scoring.transcripts import Transcripts, hypotheses_for, read_transcripts

Role = Literal["teacher", "student_hard", "student_kd", "other"]

_FILES = {"student_hard": "student-hard", "student_kd": "student-kd"}


def file_stem(key: str) -> str:
    """Return the name of a system's file: its key, and of the students' roles the name that recipes give them."""
    return _FILES.get(key, key)


ROLES: tuple[Role, ...] = ("teacher", "student_hard", "student_kd")
"""Roles that stand in the report under their own name; each can be held by one system only."""

RESERVED = frozenset(
    {*ROLES, "excluded", "skipped", "speakers", "utterances", "seconds", "gap", "resampled_by"}
    | {"comparisons", "pairs", "agreement", "reference"}
)
FALLING_CURVE = "average_of_a_falling_curve"
"""Detail of a model whose weights are the average of epochs over which the dev WER still fell: a message."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")


class Transcriber(Protocol):
    """Transcribes audio, with one decoder and its own batching."""

    def transcribe(self, waveforms: list[Tensor]) -> list[str]:
        """Waveforms, each float32 [S] mono 16 kHz → one transcript each."""


PACKET_SAMPLES = SAMPLE_RATE // 10
"""Samples of a packet: 100 ms, as clients send."""


Job = Callable[[Tensor], object]
"""Transcription of one utterance [S] by one system."""


def can_stream(recognizer: Transcriber) -> bool:
    """Whether it can open streams: it has `stream()`, and a chunked context."""
    return hasattr(recognizer, "stream") and getattr(recognizer, "context", None) is not None


def whole(recognizer: Transcriber) -> Job:
    """An utterance at once."""
    return lambda waveform: recognizer.transcribe([waveform])


def streamed(recognizer: Any) -> Job:
    """An utterance in packets of 100 ms."""

    def job(waveform: Tensor) -> None:
        stream = recognizer.stream()
        for packet in waveform.split(PACKET_SAMPLES):
            stream.accept(packet)
        stream.final()

    return job


def usual_job(recognizer: Transcriber) -> Job:
    """A stream where it can be one, else an utterance at once."""
    return streamed(recognizer) if can_stream(recognizer) else whole(recognizer)


@dataclass(frozen=True)
class System:
    """One row of the table.

    `weights` is the file, or the model folder or bundle, whose size is reported; without such a file,
    `size_bytes` gives the size. `details` go into the report's `models` as they are (chunk_ms, seed,
    sha256, …); plain data only.
    """

    name: str
    role: Role
    recognizer: Transcriber
    weights: Path | None = None
    parameters: int | None = None
    device: str = "cpu"
    details: Mapping[str, Any] = field(default_factory=dict)
    size_bytes: int | None = None
    bundle: Path | None = None
    """The exported bundle, if there is one; its 8-bit weights are reported."""

    @property
    def key(self) -> str:
        """Its key in results.json, and the file name of its hypotheses."""
        return self.name if self.role == "other" else self.role


@dataclass
class ExternalSystem:
    """A system of which only the hypotheses are available."""

    name: str
    transcripts: Transcripts
    sha256: str
    role: Role = "other"
    left_out: dict[str, int] = field(default_factory=dict)
    """Test set → utterances that a ctm file leaves out, which count as empty."""

    @property
    def key(self) -> str:
        return self.name if self.role == "other" else self.role

    @property
    def details(self) -> dict[str, Any]:
        """Its entry among the `models` of the report."""
        engine = f"hypotheses in {self.transcripts.path.name}"
        silent = {"taken_as_silent": dict(self.left_out)} if any(self.left_out.values()) else {}
        return {"engine": engine, "hypotheses_sha256": self.sha256, **silent}

    def covers(self, ids: Collection[str]) -> bool:
        """Whether its file has any of these utterances."""
        return not self.transcripts.texts.keys().isdisjoint(ids)

    def texts_of(self, test_set: str, ids: Sequence[str]) -> dict[str, str]:
        """Utterance id → text of a test set's utterances.

        Raises:
            EvaluationError: the file lacks some.
        """
        texts, missing = hypotheses_for(self.transcripts, ids)
        self.left_out[test_set] = len(missing)
        return texts


AnySystem = System | ExternalSystem


def report_order(keys: Iterable[str]) -> list[str]:
    """Keys in the order of reports: teacher, student without, student with distillation, then the others."""
    given = list(keys)
    return [key for key in ROLES if key in given] + [key for key in given if key not in ROLES]


def check_systems(systems: Sequence[AnySystem]) -> None:
    """Check that no system overwrites another one's results.

    Raises:
        EvaluationError: no system, a name that cannot be a file name, or two systems under one key.
    """
    if not systems:
        raise EvaluationError("there is no system to evaluate", expected="at least one", remedy="Train one first")
    seen: dict[str, str] = {}
    for system in systems:
        check_name(system.name, "system")
        if system.role == "other" and (system.name in RESERVED or system.name.startswith("gap_recovered")):
            raise EvaluationError(f"the report uses the name {system.name!r} itself", expected="another system name")
        if system.key in seen:
            raise EvaluationError(
                f"the systems {seen[system.key]!r} and {system.name!r} both stand for {system.key!r}",
                expected="one system for each role and name",
                remedy='Give the further ones the role "other" and a name of their own',
            )
        seen[system.key] = system.name


def check_name(name: str, what: str) -> None:
    """Check a name that becomes a key and a file name.

    Raises:
        EvaluationError: letters other than a–z, digits and _ . + -, or longer than 100.
    """
    if not _NAME.fullmatch(name):
        raise EvaluationError(
            f"the {what} name {name!r} cannot be a file name",
            expected="letters a–z, digits and _ . + -, beginning with a letter or digit, at most 100",
        )


def read_external(name: str, path: Path, role: Role = "other") -> ExternalSystem:
    """Read a file of hypotheses as a system.

    Raises:
        EvaluationError: unreadable, or not of its form.
    """
    transcripts = read_transcripts(user_path(path), "hypothesis")
    return ExternalSystem(name, transcripts, sha256_of_file(transcripts.path), role)


def external_sha256(others: Mapping[str, Path]) -> list[str]:
    """Hex SHA-256 of each file of `evaluate.others`.

    Raises:
        EvaluationError: one is not there.
    """
    for name, path in others.items():
        if not user_path(path).is_file():
            raise EvaluationError("is not there", where=path, expected=f"the hypotheses of evaluate.others.{name}")
    return [sha256_of_file(user_path(path)) for path in others.values()]


def check_external(others: Sequence[ExternalSystem], sets: Mapping[str, Sequence[Utterance]]) -> None:
    """Refuse files that do not fit the test sets of this evaluation, before anything is transcribed.

    Utterances of damaged audio may be missing in a file: they are left out for every system.

    Raises:
        EvaluationError: a file has no utterance of any test set, or lacks some of one that it has others of.
    """
    for other in others:
        covered = {name: found for name, found in sets.items() if other.covers({item.id for item in found})}
        if not covered:
            raise EvaluationError(
                "has none of the utterances of this evaluation",
                where=other.transcripts.path,
                expected=f"utterance ids of {' or '.join(sets)}",
                remedy="Correct evaluate.others, or write the ids as the manifests have them",
            )
        for name, utterances in covered.items():
            scored = [item for item in utterances if item.text is not None]
            other.texts_of(
                name,
                [item.id for item in scored if item.id in other.transcripts.texts or any(readable_utterances([item]))],
            )
