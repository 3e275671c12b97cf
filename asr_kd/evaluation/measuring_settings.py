"""Settings of what is measured beside the errors. Knows nothing else."""

from typing import ClassVar

from pydantic import Field, field_validator

from asr_kd.config import Settings
from asr_kd.evaluation.conditions import STANDARD, Condition, parse_condition
from asr_kd.models.settings import Context


class MeasuringSettings(Settings):
    """What else is measured: delay, stability, silence, cost; on request the matrix and robustness."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"sample_utterances", "silence_seconds", "memory", "matrix", "robustness", "sweep_utterances"}
    )

    sample_utterances: int = Field(50, ge=0)
    """Utterances of each set, from the shortest to the longest, on which emission delay, stability of partial results,
    trailing silence and agreement of frames are measured; 0 measures none of them."""
    silence_seconds: float = Field(2.0, ge=0, le=60)
    """Silence that follows an utterance when inserted words are counted; 0 does not."""
    memory: bool = True
    """Whether each system is opened once more, in a process of its own, to see what memory it takes."""
    matrix: tuple[Context, ...] = ()
    """Chunk and left context, in frames of 40 ms, that every streaming model is evaluated with; empty: only its own."""
    robustness: bool | tuple[str, ...] = False
    """Conditions that every system is tried under, such as [pink:10, babble:5, reverb:0.5, telephone:mu-law,
    codec:opus, speed:0.9]; true: a standard set of 13."""
    sweep_utterances: int = Field(0, ge=0)
    """Utterances of each set for the matrix and for robustness, from the shortest to the longest; 0: all."""

    @field_validator("robustness")
    @classmethod
    def _conditions(cls, names: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        for name in () if isinstance(names, bool) else names:
            parse_condition(name)
        return names

    @property
    def conditions(self) -> list[Condition]:
        """What `robustness` asks for."""
        if isinstance(self.robustness, bool):
            return [parse_condition(name) for name in STANDARD] if self.robustness else []
        return [parse_condition(name) for name in self.robustness]
