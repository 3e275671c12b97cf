"""recipes/REFERENCE.md names every key of a recipe with its default, and nothing else: it is written from the settings.

After a change of settings: `python tests/test_recipe_reference.py` writes it anew.
"""

import ast
import inspect
import itertools
import re
import sys
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from asr_kd.recipe.settings import Recipe

REFERENCE = Path(__file__).parents[1] / "recipes" / "REFERENCE.md"
COMMAND = "python tests/test_recipe_reference.py"

HEADER = f"""# Every key of a recipe

Written from the settings classes by `{COMMAND}`; a test compares the two. NAME stands for a name of your choice.
A key whose default is – must be given (a `size` gives the shape of a model). `null` in YAML means "none".
"""

PLAIN = {
    "Recipe.name": "What the run is called in reports and bundles.",
    "Recipe.work_dir": "Where everything of the run is written; relative to the folder that the command runs in.",
    "Recipe.seed": "Decides, with the number of the training step, all that is random.",
    "Recipe.device": "`auto`, `cpu`, `cuda` or `cuda:N`; `auto` takes a GPU when there is one.",
    "Recipe.corpus": "Which speech; its `kind` decides which of the tables below holds.",
    "Recipe.vocabulary": "What the models spell with.",
    "Recipe.teachers": "Named teachers, trained here (`model`) or there already (`source`).",
    "Recipe.bridge": "How the frames and symbols of a teacher from elsewhere become the students'.",
    "Recipe.sanity": "The look at a teacher's words before it labels everything.",
    "Recipe.nbest": "What is kept of a teacher's own hypotheses, for students with `distill.level: sequence`.",
    "Recipe.targets": "What is kept of a teacher's posteriors.",
    "Recipe.students": "Named students; at least one. The report compares `student-hard` with `student-kd`.",
    "Recipe.evaluate": "How systems are scored and timed.",
    "Recipe.export": "Which students are exported, and how.",
    "An4Settings.kind": "This corpus.",
    "LibriSpeechSettings.kind": "This corpus.",
    "LibriSpeechSettings.train": "Splits that are trained on.",
    "LibriSpeechSettings.dev": "Splits that training may look at; each becomes a set of its own in the report.",
    "ManifestSettings.kind": "This corpus.",
    "FolderSettings.kind": "This corpus.",
    "SyntheticSettings.kind": "This corpus.",
    "SyntheticSettings.train_utterances": "Size of the training set.",
    "SyntheticSettings.dev_utterances": "Size of the dev set.",
    "SyntheticSettings.test_utterances": "Size of the test set.",
    "SyntheticSettings.train_speakers": "Speakers of the training set; no voice is in two sets.",
    "SyntheticSettings.dev_speakers": "Speakers of the dev set.",
    "SyntheticSettings.test_speakers": "Speakers of the test set.",
    "SyntheticSettings.seed": "Decides voices, sentences and noise.",
    "VocabularySettings.kind": "Units of the vocabulary.",
    "TeacherSettings.model": "Its shape.",
    "TeacherSettings.train": "How it is trained.",
    "StudentSettings.model": "Its shape.",
    "StudentSettings.distill": "How it listens to a teacher; `null`: it learns from transcripts alone.",
    "ConformerSettings.size": "A named shape, which fills the keys below that are not given.",
    "ConformerSettings.width": "Width of the layers (D); a multiple of 4 × heads.",
    "ConformerSettings.layers": "Conformer layers.",
    "ConformerSettings.heads": "Attention heads.",
    "ConformerSettings.feed_forward": "Inner width of the feed-forward parts.",
    "ConformerSettings.kernel": "Width of the depthwise convolution; odd.",
    "ConformerSettings.subsampling_channels": "Channels of the two convolutions that make one frame of four.",
    "ConformerSettings.dropout": "Share of activations that training drops.",
    "Streaming.chunk_frames": "Frames of a chunk; 8 are 320 ms.",
    "Streaming.left_context_frames": "Frames before its chunk that a frame may look at.",
    "TrainSettings.epochs": "How often the training set is seen.",
    "TrainSettings.warmup_epochs": "Epochs in which the rate rises to its peak.",
    "TrainSettings.weight_decay": "AdamW's; on matrices only.",
    "TrainSettings.validate_every_epochs": "Epochs between two looks at the dev set.",
    "TrainSettings.precision": "Arithmetic of the forward pass: bfloat16 where that is safe, or float32 throughout.",
    "TrainSettings.augmentation": "What happens to an utterance each time it is seen.",
    "TrainSettings.checkpoint_minutes": "Minutes between checkpoints: what a crash can cost.",
    "Augmentation.spec_augment": "Masks over time and frequency; `null` for none.",
    "SpecAugment.frequency_masks": "Masks over frequency.",
    "SpecAugment.time_masks": "Masks over time.",
    "EvaluationSettings.bootstrap_samples": "Resamples of the intervals.",
    "EvaluationSettings.bootstrap_seed": "Their seed.",
    "EvaluationSettings.channels": "Files of several channels: refuse them, take the first, or average.",
}
"""What a key means, by its class, where the settings class does not say so below the key."""


def render() -> str:
    """The whole file."""
    parts = [HEADER]
    for kind, paths in sections().items():
        heading = ", ".join(f"`{path}`" for path in paths) if any(paths) else "The recipe itself"
        parts.append(f"## {heading}\n\n{_title(kind)}\n\n{_table(kind)}\n")
    return "\n".join(parts)


def sections() -> dict[type[BaseModel], list[str]]:
    """Every settings class that a recipe reaches, and the paths of the keys that hold it."""
    found: dict[type[BaseModel], list[str]] = {}

    def visit(kind: type[BaseModel], path: str) -> None:
        found.setdefault(kind, []).append(path)
        path = path.split(", ")[0]  # what tells members of a union apart is no part of the keys inside
        for name, field in kind.model_fields.items():
            members = _settings_in(field.annotation)
            for member in members:
                label = f"{path}.{name}".lstrip(".") + ".NAME" * (get_origin(field.annotation) is dict)
                visit(member, f"{label}{_which(member)}" if len(members) > 1 else label)

    visit(Recipe, "")
    return found


def _which(member: type[BaseModel]) -> str:
    """What tells a member of a union from the others."""
    if "kind" in member.model_fields:
        return f", kind: {member.model_fields['kind'].default}"
    return {  # type: ignore[attr-defined]
        "existing": ", with a source",
        "trained": ", with a model",
        "encoder": ", with an encoder",
        "conformer": ", without init",
        "whisper": ", with an init",
    }[member.tag]


def _title(kind: type[BaseModel]) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")


def _table(kind: type[BaseModel]) -> str:
    notes = _notes(kind)
    rows = ["| key | allowed | default | meaning |", "| :-- | :-- | :-- | :-- |"]
    for name, field in kind.model_fields.items():
        meaning = notes.get(name) or PLAIN.get(f"{kind.__name__}.{name}", "")
        meaning = re.sub(r"\bNone\b", "`null`", meaning[:1].upper() + meaning[1:]).replace("|", "/")
        rows.append(f"| `{name}` | {_allowed(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows)


def _notes(kind: type[BaseModel]) -> dict[str, str]:
    """Field → the string below it, or its line under "Attributes:"; of the base classes too."""
    notes: dict[str, str] = {}
    for base in reversed([base for base in kind.__mro__ if issubclass(base, BaseModel) and base is not BaseModel]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = tree.body[0].body  # type: ignore[attr-defined]
        listed = re.findall(r"^\s{2,}(\w+): (.+?)(?=\n\s*\w+:|\n*\Z)", inspect.getdoc(base) or "", re.M | re.S)
        notes |= {name: " ".join(text.split()) for name, text in listed}
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                notes[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return notes


def _allowed(field: FieldInfo) -> str:
    limits = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, key):g}"
        for item in field.metadata
        for key, sign in limits.items()
        if hasattr(item, key)
    ]
    return ", ".join([_words(field.annotation), *found])


def _words(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        known = [argument for argument in arguments if argument is not type(None)]
        return ", ".join(dict.fromkeys(_words(argument) for argument in known)) + " or null" * (
            len(known) < len(arguments)
        )
    if origin is Annotated:
        return _words(arguments[0])
    if origin is dict:
        return f"NAME: {_words(arguments[1])}"
    if origin in (list, tuple):
        return f"list of {_words(arguments[0])}"
    if hasattr(annotation, "_fields"):
        return f"[{', '.join(annotation._fields)}]"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "mapping"
    return {int: "integer", float: "number", str: "text", bool: "true, false", Path: "path"}.get(annotation, "anything")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "–"
    return "see its table" if isinstance(field.default, BaseModel) else f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings_in(annotation: Any) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _settings_in(argument)]


def test_the_reference_is_what_the_settings_say():
    assert len(sections()) >= 10
    assert REFERENCE.read_text(encoding="utf-8") == render(), f"run: {COMMAND}"


def test_every_key_has_a_meaning():
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.endswith("|  |")] == [], "write a string below each of these keys in its class"


if __name__ == "__main__":
    REFERENCE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"written: {REFERENCE}\n")
