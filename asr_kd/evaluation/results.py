"""Results of an evaluation, as frozen data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from asr_kd.evaluation.comparison import DEFAULT_PAIR, Compared, Comparison, PairTest, SeedRow, SeedRows
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import Role
from asr_kd.scoring.formats import TimedWord
from asr_kd.scoring.paired import WordAgreement
from asr_kd.scoring.significance import Interval
from asr_kd.scoring.wer import GroupErrors, Score
from asr_kd.targets.bridge import BridgeSettings

Plain = dict[str, Any]


@dataclass(frozen=True)
class Measurements:
    """What is measured beside the errors, as plain data by set and system's key."""

    systems: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)
    """Set → system → `delay`, `stability`, `trailing_silence`, `silent_streams`."""
    agreement: Mapping[str, Mapping[str, Plain]] = field(default_factory=dict)
    """Set → system → `frame_kl`, `argmax_agreement` …, which stand beside the agreement in words."""
    costs: Mapping[str, Plain] = field(default_factory=dict)
    """System → its cost report."""
    matrix: Mapping[str, list[Plain]] = field(default_factory=dict)
    """System → a row for each set, chunk and left context."""
    robustness: Mapping[str, list[Plain]] = field(default_factory=dict)
    """System → a row for each set and condition."""


@dataclass(frozen=True)
class Excluded:
    """An utterance that no system was scored on, and why."""

    id: str
    audio: str
    reason: str


@dataclass(frozen=True)
class SystemResult:
    """One system on one test set. Intervals are None without enough data."""

    score: Score
    hypotheses: dict[str, str]
    """As the system wrote them, before the normalizer."""
    interval: Interval | None
    """Over utterances."""
    speaker_interval: Interval | None
    """Over speakers."""
    by_speaker: Mapping[str, GroupErrors] = field(default_factory=dict)
    """Empty where speakers are not known."""
    words: Mapping[str, Sequence[TimedWord]] = field(default_factory=dict)
    """Utterance id → its words with times, before the normalizer, where the system wrote them."""


@dataclass(frozen=True)
class SetResult:
    """Every system on the same utterances of one test set."""

    systems: dict[str, SystemResult]
    references: dict[str, str]
    speakers: dict[str, str]
    """Utterance id → speaker, in the order of the manifest; so are `references`. Empty where they are not known."""
    seconds: float | None
    """Of speech; None is not known."""
    excluded: list[Excluded]
    comparisons: list[Compared]
    """Every student with distillation against the same student without, in the order of the report."""
    resampled_by: str
    """What comparisons were resampled by: "speakers" or "utterances"."""
    pairs: list[PairTest] = field(default_factory=list)
    """Every two systems."""
    agreement: dict[str, WordAgreement] = field(default_factory=dict)
    """System's key → its words beside its teacher's."""
    seeds: list[SeedRow] = field(default_factory=list)
    """Rows of several training runs."""

    @property
    def num_speakers(self) -> int:
        return len(set(self.speakers.values()))

    @property
    def default_pair(self) -> Compared | None:
        """`student_kd` against `student_hard`, if they are among the systems."""
        wanted = (DEFAULT_PAIR.distilled, DEFAULT_PAIR.baseline)
        return next((item for item in self.comparisons if (item.pair.distilled, item.pair.baseline) == wanted), None)


@dataclass(frozen=True)
class Cost:
    """Cost of running a system. None: not known or not measured; so are all of an external system's."""

    parameters: int | None = None
    size_bytes: int | None = None
    real_time_factor: float | None = None
    """Seconds of computing a second of audio, one thread, one utterance at a time; median over utterances."""
    streaming_real_time_factor: float | None = None
    """The same when the audio arrives in packets; None for a system that does not stream."""
    rtf_utterances: int = 0
    device: str = "–"


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run that the caller passes on to the report."""

    synthetic: bool = False
    seeds: tuple[int, ...] = ()
    """Training seeds of the systems."""
    seed_rows: SeedRows = field(default_factory=SeedRows)
    """Systems that differ only in their seed, by names."""
    absent_sets: dict[str, str] = field(default_factory=dict)
    """Test set → why it was not evaluated."""
    command: str | None = None
    """None: this process' own command line."""
    absent_systems: Mapping[str, str] = field(default_factory=dict)
    """System → why it was not evaluated."""
    comparisons: tuple[Comparison, ...] = ()
    """Pairs of students to compare, beside that of the roles student_hard and student_kd; those of an absent student
    are left out, and an absent teacher leaves the difference."""
    teachers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a teacher → what is known of distilling from it (how it was bridged, what its targets take …), as plain
    data for the report."""
    recipe: str | None = None
    corpus: str | None = None
    """The corpus' name, for the report and for model cards."""
    dev_sets: tuple[str, ...] = ()
    """Sets that training used to select epochs; the headline is of another one where there is one."""
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """System → a row for each epoch of its training (epoch, dev_wer, …)."""
    pseudo_labels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of pseudo-labels → their source, the yield of every filter, the sets that they are the references of."""
    roles: Mapping[str, Role] = field(default_factory=dict)
    """External system → its role where it is not "other"."""
    bridge: BridgeSettings | None = None
    """How a teacher's frames and symbols become its students', to compare the two frame by frame; None: the default."""


@dataclass(frozen=True)
class Results:
    """All test sets and all systems."""

    names: dict[str, str]
    """Key in the report → the system's own name."""
    roles: dict[str, Role]
    details: dict[str, dict[str, Any]]
    sets: dict[str, SetResult]
    costs: dict[str, Cost]
    settings: EvaluationSettings
    facts: RunFacts
    provenance: dict[str, Any]
    measured: Measurements = field(default_factory=Measurements)
    """Delay, stability, cost … beside the errors."""
