"""Plain YAML into typed settings: loading, overriding, checking. Never code.

Knows the mechanism only; each component's settings stand beside the component.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from asr_kd.errors import RecipeError


class Settings(BaseModel):
    """Base of every settings class: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


S = TypeVar("S", bound=Settings)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML that also refuses a key given twice, which YAML would resolve silently."""


def _mapping_without_duplicates(loader: _PlainLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
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
    loader = _PlainLoader(text)
    loader.name = str(path)
    try:
        data = loader.get_single_data()
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise RecipeError(
            f"{error.problem}",
            where=f"{path}:{line}",
            expected="plain values; tags such as !apply: or !!python are refused because they can run code",
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"not YAML: {error}".replace("\n", " "), where=path, expected="a YAML mapping") from error
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        raise RecipeError(f"holds {type(data).__name__}, not a mapping", where=path, expected="key: value lines")
    return data


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return `data` with every ``key.path=value`` applied; values are read as YAML scalars or lists.

    Raises:
        RecipeError: an override is not of that form, or goes through something that is not a mapping.
    """
    result = _deep_copy(data)
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.split(".")
        if not separator or not all(keys):
            raise RecipeError(
                f"override {override!r}", expected="key.path=value, for example students.student-kd.train.epochs=5"
            )
        target = result
        for key in keys[:-1]:
            target = target.setdefault(key, {})
            if not isinstance(target, dict):
                raise RecipeError(
                    f"override {override!r} goes through {key!r}, which is not a mapping", expected="a path of mappings"
                )
        try:
            target[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError(f"the value of override {override!r} is not YAML", expected="a plain value") from error
    return result


def _deep_copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deep_copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_deep_copy(item) for item in value]
    return value


def parse_settings(kind: type[S], data: Any, where: str | Path) -> S:
    """Check `data` against a settings class.

    Raises:
        RecipeError: lists every problem: unknown keys with the nearest known one, wrong types, and values
            out of range with the allowed range.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        problems = [_describe(kind, problem) for problem in error.errors(include_url=False)]
        raise RecipeError(
            "; ".join(problems),
            where=where,
            remedy="Correct the key in the recipe or in the override; nothing has run yet",
        ) from error


def _describe(kind: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    path = ".".join(location)
    if problem["type"] == "extra_forbidden":
        known = _known_keys(kind, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {path!r}: {hint}"
    given = "" if problem["type"] == "missing" else f" (found {problem['input']!r})"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{path}: {message}{given}"


def _known_keys(kind: type[BaseModel], location: list[str]) -> list[str]:
    """Field names of the settings class that `location` leads to."""
    current: list[type[BaseModel]] = [kind]
    for part in location:
        following: list[type[BaseModel]] = []
        for model in current:
            if part in model.model_fields:
                following += _settings_in(model.model_fields[part].annotation)
            else:  # a union's tag, a map's key or a list's index: stay where we are
                following.append(model)
        current = following or current
    return [name for model in current for name in model.model_fields]


def _settings_in(annotation: Any) -> list[type[BaseModel]]:
    """Settings classes mentioned anywhere in a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _settings_in(argument)]
