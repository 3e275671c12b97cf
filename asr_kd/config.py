"""Plain YAML into typed settings: loading, overriding, checking. Never code."""

import difflib
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from asr_kd.errors import RecipeError


class Settings(BaseModel):
    """Base of every settings class: immutable, an unknown key is an error, and numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)

    no_effect: ClassVar[frozenset[str]] = frozenset()
    """Names of settings that change no result, such as caps and memory: raising one must not repeat finished work."""

    def key_settings(self) -> dict[str, Any]:
        """Return plain data for a cache key: settings without effect on the result stand there at their default."""
        defaults = {name: type(self).model_fields[name].default for name in self.no_effect}
        plain = self.model_copy(update=defaults).model_dump(mode="json")
        inner = {name: getattr(self, name) for name in type(self).model_fields}
        return plain | {name: value.key_settings() for name, value in inner.items() if isinstance(value, Settings)}


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError(f"{number} must be odd")
    return number


Odd = Annotated[int, AfterValidator(_odd)]
"""An odd number, such as the width of a centred convolution."""


def user_path(path: str | Path) -> Path:
    """The path with the home folder for a leading `~`; `~name` stays where no user is called so."""
    return Path(os.path.expanduser(path))


UserPath = Annotated[Path, AfterValidator(user_path)]
"""A path in which `~` is the home folder."""

S = TypeVar("S", bound=Settings)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML that also refuses a key given twice, which YAML would resolve silently."""


def _mapping_without_duplicates(loader: _PlainLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
            continue
        if key_node.value in seen:
            raise RecipeError(
                f"the key {key_node.value!r} stands twice in one mapping",
                where=f"{key_node.start_mark.name}:{key_node.start_mark.line + 1}",
                expected="each key once",
            )
        seen.add(key_node.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_PlainLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain data.

    Raises:
        RecipeError: no such file, not YAML, not a mapping, a key twice, or a tag (``!anything``).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read ({error})", where=path, expected="a YAML file in UTF-8") from error
    data = _parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"holds {type(data).__name__}, not a mapping", where=path, expected="key: value lines")
    return data


def _parse_yaml(text: str, name: str) -> Any:
    """Plain data from YAML; `name` is what errors call the text."""
    try:
        loader = _PlainLoader(text)
    except yaml.YAMLError as error:  # characters that YAML does not allow
        raise RecipeError(f"not YAML: {_one_line(error)}", where=name, expected="text") from error
    loader.name = name
    try:
        return loader.get_single_data()
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        expected = "plain values"
        if "constructor for the tag" in str(error.problem):
            expected += "; tags such as !apply: or !!python are refused because they can run code"
        raise RecipeError(f"{error.problem}", where=f"{name}:{line}", expected=expected) from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-01
        raise RecipeError(f"not YAML: {_one_line(error)}", where=name, expected="a YAML mapping") from error
    except RecursionError as error:
        raise RecipeError("is nested too deeply", where=name, expected="a YAML mapping") from error
    finally:
        loader.dispose()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with every ``key.path=value`` applied; values are read as YAML, as in the file.

    Raises:
        RecipeError: an override is not of that form, or goes through something that is not a mapping.
    """
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise RecipeError(
                f"override {override!r}", expected="key.path=value, for example students.student-kd.train.epochs=5"
            )
        data = _replaced(data, keys, _value_of(text, override), override)
    return data


def _value_of(text: str, override: str) -> Any:
    try:
        return _parse_yaml(text, f"override {override!r}")
    except RecipeError as error:
        if not isinstance(error.__cause__, yaml.parser.ParserError | yaml.scanner.ScannerError):
            raise
        raise RecipeError(
            f"the value {text!r} is not complete YAML",
            where=f"override {override!r}",
            expected="a value in which every bracket and quote is closed",
            remedy="Close it, as in key=[a, b], or put text with such characters in quotes: 'key=\"[text\"'",
        ) from error


def _replaced(data: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> dict[str, Any]:
    """A copy of the mappings along the path only: other places that a YAML anchor shares keep their values."""
    if len(keys) == 1:
        return {**data, keys[0]: value}
    below = data.get(keys[0])
    if below is not None and not isinstance(below, dict):
        raise RecipeError(
            f"override {override!r} goes through {keys[0]!r}, which is not a mapping", expected="a path of mappings"
        )
    return {**data, keys[0]: _replaced(below or {}, keys[1:], value, override)}


def parse_settings(kind: type[S], data: Any, where: str | Path) -> S:
    """Check `data` against a settings class.

    Raises:
        RecipeError: lists every problem: unknown keys with the nearest known one, wrong types, and values
            out of range with the allowed range.
    """
    _refuse_nul(data, where)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [_describe(kind, data, problem) for problem in error.errors(include_url=False)]
        raise RecipeError(
            "; ".join(problems),
            where=where,
            remedy="Correct the key in the recipe or in the override; nothing has run yet",
        ) from error


def _refuse_nul(data: Any, where: str | Path, path: str = "") -> None:
    """Refuse a NUL character, which no path and no text may hold."""
    if isinstance(data, str) and "\0" in data:
        raise RecipeError(f"{path}: a NUL character in {data!r}", where=where, expected="text without it")
    items = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list | tuple) else ()
    for key, value in items:
        _refuse_nul(value, where, f"{path}.{key}" if path else str(key))


# -- messages --------------------------------------------------------------------------------------------

_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number")
_SHOWN_CHARACTERS = 60
_TYPES = {
    "a mapping, `key: value`": ("dict_type", "model_type", "model_attributes_type", "mapping_type"),
    "a list": ("list_type", "tuple_type"),
    "text": ("string_type",),
    "a path": ("path_type",),
    "a whole number": ("int_type", "int_parsing", "int_from_float"),
    "a number": ("float_type", "float_parsing"),
    "true or false": ("bool_type", "bool_parsing"),
}
_EXPECTED = {code: f"expected {words}" for words, codes in _TYPES.items() for code in codes}
"""How a recipe's author calls the type that pydantic expects."""
_UNION_MEMBER = re.compile(r"(bool|int|float|str|none|literal|tuple|list|dict|function-\w+)(\[.*\])?")
"""How pydantic names a member of a union that has no tag."""


def _describe(kind: type[BaseModel], data: Any, problem: Any) -> str:
    """One of pydantic's problems in our words: the key as the user writes it, what was found, what is allowed."""
    location, code = problem["loc"], problem["type"]
    if location and location[-1] == "[key]":
        return f"{'.'.join(map(str, location[:-1]))}: expected text as the name, in quotes"
    if code == "extra_forbidden":
        place = _Place(kind).enter_all(location[:-1])
        elsewhere = list(islice(_paths_of(kind, str(location[-1])), 3)) if len(location) == 1 else []
        meant = f"did you mean {', '.join(elsewhere)}?" if elsewhere else _nearest(location[-1], place.known)
        return f"unknown key {'.'.join([*place.path, str(location[-1])])!r}: {meant}"
    place = _Place(kind).enter_all(location)
    path = ".".join(place.path)
    if code in ("union_tag_invalid", "union_tag_not_found"):
        tag = problem["ctx"]["discriminator"].strip("'")
        found = f"found {problem['ctx']['tag']!r}, " if code == "union_tag_invalid" else "missing, "
        known = [name for model in place.models for name in _tags(model)]
        return f"{path}.{tag}: {found}{_nearest(problem['ctx'].get('tag', ''), known)}"
    if code == "missing":
        return f"{path}: missing{_misspelt_name(data, location)}"
    message = _EXPECTED.get(code, problem["msg"].removeprefix("Value error, "))
    if code == "literal_error":
        message = f"expected {problem['ctx']['expected']}"
    if code == "too_short":
        message = f"expected at least {problem['ctx']['min_length']}, found {problem['ctx']['actual_length']}"
        return f"{path}: {message}"
    if code in _OUT_OF_RANGE and place.field is not None:
        message = f"allowed: {_allowed(place.field) or message}"
    given = f" (found {_shown(problem['input'])})" if _is_shown(code, problem["input"]) else ""
    return f"{path}: {message}{given}" if path else f"{message}{given}"


class _Place:
    """A place in a tree of settings: which types stand there, and how a recipe's author calls it."""

    def __init__(self, kind: type[BaseModel]) -> None:
        self.path: list[str] = []
        self.field: FieldInfo | None = None
        self._types: list[Any] = [kind]

    @property
    def models(self) -> list[type[BaseModel]]:
        return [item for item in self._types if isinstance(item, type) and issubclass(item, BaseModel)]

    @property
    def known(self) -> list[str]:
        """Keys that may stand here."""
        return [name for model in self.models for name in model.model_fields]

    def enter_all(self, location: Iterable[Any]) -> "_Place":
        for part in location:
            self._enter(part)
        return self

    def _enter(self, part: Any) -> None:
        tagged = [model for model in self.models if part in _tags(model)]
        # Pydantic names the chosen member of a union; a recipe does not. A key of that member may have the same name.
        if tagged and len(self.models) > 1:
            self._types = tagged
            return
        is_name = isinstance(part, str) and len(self._types) > 1 and _UNION_MEMBER.fullmatch(part)
        of_text = isinstance(part, str) and not self.models and str in self._types
        if (is_name or of_text) and part not in self.known:  # so do unions of text, lists and choices
            return
        self.path.append(str(part))
        fields = [model.model_fields[part] for model in self.models if part in model.model_fields]
        self.field = fields[0] if fields else None
        inside = [field.annotation for field in fields] or [
            get_args(item)[-1 if get_origin(item) is dict else 0]
            for item in self._types
            if get_origin(item) in (dict, list, tuple) and get_args(item)
        ]
        self._types = [member for item in inside for member in _members(item)]


def _members(annotation: Any) -> Iterator[Any]:
    """The types that a value may have: a union's members, without their annotations."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def _paths_of(kind: type[BaseModel], key: str) -> Iterator[str]:
    """The places below `kind` that have a key of that name, the shallowest first; NAME is one of the recipe's own."""
    level: list[tuple[str, type[BaseModel], frozenset[type[BaseModel]]]] = [("", kind, frozenset())]
    while level:
        paths = [f"{path}{key}" for path, model, _ in level if key in model.model_fields]
        yield from dict.fromkeys(paths)
        deeper = []
        for path, model, above in level:
            for name, field in model.model_fields.items():
                for member in _members(field.annotation):
                    named = get_origin(member) is dict
                    for inner in _members(get_args(member)[-1]) if named else [member]:
                        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in above:
                            deeper.append((f"{path}{name}{'.NAME' if named else ''}.", inner, above | {model}))
        level = deeper


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """How pydantic names a member of a union: by what its `kind` may be, or by its class' `tag`."""
    if "kind" in model.model_fields:
        return get_args(model.model_fields["kind"].annotation)
    return (model.tag,) if hasattr(model, "tag") else ()


def _nearest(word: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(set(known)))}"


def _misspelt_name(data: Any, location: Sequence[Any]) -> str:
    """A hint when something lacks its keys because an override wrote a name that is nearly another's."""
    for part in location[:-1]:
        if not isinstance(data, Mapping) or part not in data:
            break
        others = [str(name) for name in data if name != part and isinstance(data[name], dict)]
        near = difflib.get_close_matches(str(part), others, n=1, cutoff=0.85)
        if near:
            return f" (is {part!r} meant to be {near[0]!r}?)"
        data = data[part]
    return ""


def _allowed(field: FieldInfo) -> str:
    bounds = [
        f"{words} {value:g}" if isinstance(value := getattr(constraint, name), float) else f"{words} {value}"
        for name, words in _BOUNDS.items()
        for constraint in field.metadata
        if hasattr(constraint, name)
    ]
    return " and ".join(bounds)


def _is_shown(code: str, value: Any) -> bool:
    """Whether a message names what was found: a value, or the kind of a collection where its type is wrong."""
    return value is None or isinstance(value, str | int | float) or code in _EXPECTED or code == "literal_error"


def _shown(value: Any) -> str:
    """A value in a few characters, or what kind of collection it is."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
