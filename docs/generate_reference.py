"""Write the reference of recipe keys and of commands, docs/reference/, from the settings classes and the command line.

    python docs/generate_reference.py

A key is documented once: by the string below its field. A test compares the committed files with what this writes.
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

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from asr_kd.cli import app
from asr_kd.recipe.settings import Recipe

FOLDER = Path(__file__).parent / "reference"
COMMAND = "python docs/generate_reference.py"

RECIPE_HEADER = f"""# Recipe keys

Written by `{COMMAND}`. NAME stands for a name of your choice. A key whose default is – must be given (a `size` gives
the shape of a model). `null` in YAML means "none".
"""

COMMANDS_HEADER = f"""# Commands

Written by `{COMMAND}`. Exit codes: 0 success, 1 an error with one message, 2 wrong usage, 75 stopped
early; run the same command again to continue.
"""


def pages() -> dict[Path, str]:
    """Return the content of every page of the reference."""
    return {FOLDER / "recipe.md": recipe_page(), FOLDER / "commands.md": commands_page()}


# -- commands --------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Return the page of all commands."""
    root = typer.main.get_command(app)
    return "\n".join([COMMANDS_HEADER, *_command_sections(root, "asr-kd")])


def _command_sections(command: Any, path: str) -> list[str]:
    sections = []
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            sections += _command_sections(child, f"{path} {name}")
            continue
        text, _, examples = inspect.cleandoc(child.help or "").partition("\b")
        commands = "\n".join(line.strip() for line in examples.splitlines() if line.strip().startswith("asr-kd"))
        sections.append(f"## {path} {name}\n\n{text.strip()}\n\n```bash\n{commands}\n```\n\n{_parameters(child)}\n")
    return sections


def _parameters(command: Any) -> str:
    rows = ["| parameter | default | meaning |", "| :-- | :-- | :-- |"]
    for parameter in command.params:
        if "--help" in parameter.opts:
            continue
        named = parameter.metavar or ""
        written = f"{'/'.join(parameter.opts)} {named}".strip() if parameter.opts[0].startswith("-") else named
        default = "required" if parameter.required else _plain_default(parameter.default)
        meaning = (parameter.help or "").replace("|", "/")
        rows.append(f"| `{(written or parameter.name).replace('|', '/')}` | {default} | {meaning} |")
    return "\n".join(rows)


def _plain_default(value: Any) -> str:
    return "" if value in (None, False, "", ()) or callable(value) else f"`{getattr(value, 'value', value)}`"


# -- recipe keys -----------------------------------------------------------------------------------------


def recipe_page() -> str:
    """Return the page of all recipe keys."""
    parts = [RECIPE_HEADER]
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
    """The key that selects a member of a union."""
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
        meaning = notes.get(name, "")
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


def main() -> None:
    """Write the pages."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"written: {path}\n")


if __name__ == "__main__":
    main()
