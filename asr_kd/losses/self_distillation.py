"""What settings of objectives have in common where a further pass of the student is the teacher."""

from typing import Self

from pydantic import Field, model_validator

from asr_kd.losses.base import TermSettings


class SelfDistillationSettings(TermSettings):
    """CTC on a further pass, and a KL between the passes.

    Attributes:
        ctc_weight: of the further pass' CTC; 0 needs no transcripts.
        kl_weight: of the KL.
    """

    ctc_weight: float = Field(default=1.0, ge=0.0, le=1000.0)
    kl_weight: float = Field(default=1.0, ge=0.0, le=1000.0)

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.ctc_weight == 0.0 and self.kl_weight == 0.0:
            raise ValueError("ctc_weight and kl_weight are both 0: nothing would be learned")
        return self

    @property
    def trains_blanks(self) -> bool:
        """Not without CTC: the other pass would be untrained, and passes that agree may be wrong."""
        return self.needs_references

    @property
    def needs_references(self) -> bool:
        """For CTC."""
        return self.ctc_weight > 0.0
