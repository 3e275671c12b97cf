"""Which models teach, as a recipe names them. Knows how a name is written, not how a model is opened."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from asr_kd.config import Settings

Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic of a teacher's layers; the last softmax is always taken in float32."""

KINDS = {
    "torchaudio": "torchaudio:BUNDLE",
    "hf": "hf:REPO_OR_FOLDER[@REVISION]",
    "speechbrain": "speechbrain:REPO_OR_FOLDER@REVISION (with allow_code: true)",
    "local": "local:FOLDER",
    "recipe": "recipe:TEACHER",
}
"""How each kind of source is written."""

NO_NEMO = (
    "a .nemo archive is not opened: its YAML names the Python class to build (_target_) and its weights are a pickle, "
    "so opening it runs what it says. Parakeet-CTC and the like have a safetensors form on the hub: write "
    "hf:REPO@REVISION instead (nvidia/parakeet-ctc-1.1b, for example), or convert the archive where it may run code "
    "with transformers' convert_nemo_to_hf.py and write hf:FOLDER"
)

ALLOW_CODE = (
    "a speechbrain model is described by a YAML file that names the Python code to build it with, and its weights are "
    "pickles: opening one runs whatever its author wrote, with your rights. Read the hyperparams.yaml of that "
    "revision; if you trust it, say allow_code: true beside the source"
)


class SourceName(NamedTuple):
    """A source in its parts."""

    kind: str
    place: str
    """Bundle, repository, folder or teacher of the recipe."""
    revision: str | None
    """What follows the last @ of a repository; always None for the other kinds."""


def parse_source(text: str) -> SourceName:
    """The parts of a source such as ``hf:facebook/wav2vec2-base-960h@main``.

    Raises:
        ValueError: an unknown kind, nothing behind it, a speechbrain source without a revision, or NeMo, with the
            reason.
    """
    kind, colon, place = text.partition(":")
    if kind == "nemo" or place.endswith(".nemo"):
        raise ValueError(NO_NEMO)
    if not colon or kind not in KINDS or not place:
        raise ValueError(f"the source {text!r} must be one of {', '.join(KINDS.values())}")
    if kind not in ("hf", "speechbrain") or (kind == "hf" and Path(place).expanduser().is_dir()):
        return SourceName(kind, place, None)
    repository, at, revision = place.rpartition("@")
    if at and not (repository and revision):
        raise ValueError(f"the source {text!r} has nothing before or behind its @; write {KINDS[kind]}")
    if kind == "speechbrain" and not at:
        raise ValueError(
            f"the source {text!r} names no revision: its code could change under the recipe; a folder's "
            "revision is a word of your own"
        )
    return SourceName(kind, repository, revision) if at else SourceName(kind, place, None)


class Member(Settings):
    """A teacher of an ensemble."""

    source: str
    """As in the key above it; all members need one vocabulary and one frame grid."""
    weight: float = Field(default=1.0, gt=0.0)
    """Its share of the average, relative to the other members' weights."""

    @field_validator("source")
    @classmethod
    def _readable(cls, source: str) -> str:
        parse_source(source)
        return source


def _form(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


class TeacherSource(Settings):
    """A teacher that exists already: a public model, a folder, or an ensemble of such."""

    source: Annotated[Annotated[str, Tag("one")] | Annotated[tuple[Member, ...], Tag("several")], Discriminator(_form)]
    """`torchaudio:BUNDLE`, `hf:REPO_OR_FOLDER[@REVISION]`, `speechbrain:REPO_OR_FOLDER@REVISION`, `local:FOLDER`,
    `recipe:TEACHER` (a teacher that the recipe itself trains), or a list of such with weights: an ensemble."""
    average: Literal["probabilities", "log_probabilities"] = "probabilities"
    """What an ensemble averages; log-probabilities are normalised again afterwards."""
    precision: Precision = "fp32"
    """Arithmetic of the teacher's layers; the last softmax is taken in float32."""
    window_seconds: float | None = Field(default=None, gt=0.0)
    """Longer audio is heard in overlapping windows of at most this length; None: always whole."""
    overlap_seconds: float = Field(default=4.0, ge=0.0)
    """Audio that two neighbouring windows share; each is believed up to the middle of it."""
    allow_code: bool = False
    """Only for speechbrain sources, whose YAML runs code of its author."""

    @field_validator("source")
    @classmethod
    def _readable(cls, source: str | tuple[Member, ...]) -> str | tuple[Member, ...]:
        if isinstance(source, str):
            parse_source(source)
        elif not source:
            raise ValueError("an ensemble needs at least one member")
        return source

    @model_validator(mode="after")
    def _fits_together(self) -> "TeacherSource":
        if self.window_seconds is not None and not self.overlap_seconds < self.window_seconds / 2:
            raise ValueError(
                f"overlap_seconds ({self.overlap_seconds:g}) must be below half of window_seconds "
                f"({self.window_seconds:g})"
            )
        if any(parse_source(member.source).kind == "speechbrain" for member in self.members) and not self.allow_code:
            raise ValueError(ALLOW_CODE)
        return self

    @property
    def members(self) -> tuple[Member, ...]:
        """The teachers, one or several."""
        return (Member(source=self.source),) if isinstance(self.source, str) else self.source

    @property
    def is_local(self) -> bool:
        """Whether it is one model of this project's own, heard whole."""
        return (
            isinstance(self.source, str)
            and parse_source(self.source).kind in ("local", "recipe")
            and self.window_seconds is None
        )

    def resolved(self, folder_of: Callable[[str], Path]) -> "TeacherSource":
        """With every ``recipe:TEACHER`` replaced by ``local:`` and its folder.

        Args:
            folder_of: model folder of a teacher that the recipe trains; raises for a name that it does not know.
        """

        def local(source: str) -> str:
            kind, place, _ = parse_source(source)
            return f"local:{folder_of(place)}" if kind == "recipe" else source

        if isinstance(self.source, str):
            return self.model_copy(update={"source": local(self.source)})
        members = tuple(member.model_copy(update={"source": local(member.source)}) for member in self.source)
        return self.model_copy(update={"source": members})
