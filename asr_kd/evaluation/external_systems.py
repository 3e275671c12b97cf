"""External systems in an evaluation: their hypotheses are read from files and matched by utterance id."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.results import Cost
from asr_kd.evaluation.system import Role
from asr_kd.files import sha256_of_file
from asr_kd.scoring.transcripts import Transcripts, hypotheses_for, read_transcripts

COST = Cost(
    parameters=None,
    size_bytes=None,
    real_time_factor=None,
    streaming_real_time_factor=None,
    rtf_utterances=0,
    device="–",
)
"""The cost of a system that is not here."""


@dataclass
class ExternalSystem:
    """A system of which only the hypotheses are available."""

    name: str
    transcripts: Transcripts
    sha256: str
    role: Role = "other"
    silent: dict[str, int] = field(default_factory=dict)
    """Test set → utterances that a ctm file leaves out, which count as empty."""

    @property
    def key(self) -> str:
        """Where it stands in results.json."""
        return self.name if self.role == "other" else self.role

    @property
    def details(self) -> dict[str, Any]:
        """Its entry among the `models` of the report."""
        details: dict[str, Any] = {
            "engine": f"hypotheses in {self.transcripts.path.name}",
            "hypotheses_sha256": self.sha256,
        }
        return details | ({"taken_as_silent": dict(self.silent)} if any(self.silent.values()) else {})


def read_external(name: str, path: Path, role: Role = "other") -> ExternalSystem:
    """A file of hypotheses as a system.

    Raises:
        EvaluationError: unreadable, or not of its form.
    """
    transcripts = read_transcripts(path.expanduser(), "hypothesis")
    return ExternalSystem(name, transcripts, sha256_of_file(transcripts.path), role)


def external_sha256(others: Mapping[str, Path]) -> list[str]:
    """Hex SHA-256 of each file of `evaluate.others`.

    Raises:
        EvaluationError: one is not there.
    """
    for name, path in others.items():
        if not path.expanduser().is_file():
            raise EvaluationError("is not there", where=path, expected=f"the hypotheses of evaluate.others.{name}")
    return [sha256_of_file(path.expanduser()) for path in others.values()]


def external_outputs(others: Sequence[ExternalSystem], test_set: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """System's key → utterance id → text, of those systems whose file covers this test set.

    Raises:
        EvaluationError: a file covers some of the utterances and not the others.
    """
    found: dict[str, dict[str, str]] = {}
    for other in others:
        if covers(other, ids):
            found[other.key], missing = hypotheses_for(other.transcripts, ids)
            other.silent[test_set] = len(missing)
    return found


def covers(other: ExternalSystem, ids: Collection[str]) -> bool:
    """Whether its file has any of these utterances."""
    return any(utterance_id in other.transcripts.texts for utterance_id in ids)


def check_external(others: Sequence[ExternalSystem], sets: Mapping[str, Collection[str]]) -> None:
    """Refuse a file that belongs to no test set of this evaluation, before anything is transcribed.

    Args:
        sets: test set → ids of its utterances.

    Raises:
        EvaluationError: such a file.
    """
    for other in others:
        if not any(covers(other, ids) for ids in sets.values()):
            raise EvaluationError(
                "has none of the utterances of this evaluation",
                where=other.transcripts.path,
                expected=f"utterance ids of {' or '.join(sets)}",
                remedy="Correct evaluate.others, or write the ids as the manifests have them",
            )
