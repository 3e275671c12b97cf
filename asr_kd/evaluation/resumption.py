"""What an evaluation takes from earlier ones, and how it is stopped so that a later one can go on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from asr_kd.errors import StoppedEarly

OutputTexts = Mapping[str, Mapping[str, str]]
"""System's key → utterance id → text."""


class SetVariant(NamedTuple):
    """A test set, as it is or changed."""

    set_name: str
    change: str = ""
    """A condition of `evaluate.robustness` or a context of `evaluate.matrix`; empty: none."""

    def __str__(self) -> str:
        return f"{self.set_name}, {self.change}" if self.change else self.set_name


@dataclass(frozen=True)
class Resumption:
    """Transcripts from before, where new ones are kept, and reasons to stop; by default none of them."""

    known: Mapping[SetVariant, OutputTexts] = field(default_factory=dict)
    """Transcripts from before; used as they are instead of transcribing again."""
    keep: Callable[[SetVariant, OutputTexts], None] = lambda variant, texts: None
    """Called with the transcripts of each variant, also with a part of them when the work ends early."""
    stop_reason: Callable[[], str | None] = lambda: None
    """Called while audio is transcribed; why to stop, such as `SIGTERM`."""

    def stop(self, variant: SetVariant, done: int, count: int) -> None:
        """Raise StoppedEarly where there is a reason to stop.

        Args:
            done: utterances of the variant that are transcribed.
            count: all of them.
        """
        reason = self.stop_reason()
        if reason is not None:
            raise StoppedEarly(
                f"evaluation stopped ({reason}) after {done} of {count} utterances of {variant}",
                remedy="Run the same command again; what was transcribed is kept",
            )
