"""How the settings of an earlier result differ from those of now."""

from typing import Any


def without_new_defaults(settings: Any, earlier: Any, stated: Any) -> Any:
    """Return `settings` without those that the earlier result does not have and that stand at their default.

    A release that adds a setting then leaves the results of earlier ones as they are: its default does what they did.
    A default that changes does not: the earlier settings hold its old value.

    Args:
        settings: plain data that decides a result.
        earlier: the same of the earlier result.
        stated: the part of `settings` that is not at its default.
    """
    if isinstance(settings, dict) and isinstance(earlier, dict):
        stated = stated if isinstance(stated, dict) else {}
        return {
            key: without_new_defaults(value, earlier.get(key), stated.get(key))
            for key, value in settings.items()
            if key in earlier or key in stated
        }
    are_lists = isinstance(settings, list) and isinstance(earlier, list) and isinstance(stated, list)
    if are_lists and len(settings) == len(earlier) == len(stated):
        return [without_new_defaults(*values) for values in zip(settings, earlier, stated, strict=True)]
    return settings


def first_difference(old: Any, new: Any, path: str = "") -> str | None:
    """Return the first setting that differs, for a message; None without one."""
    if old == new:
        return None
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *(key for key in old if key not in new)]:
            place = f"{path}.{key}" if path else str(key)
            if key in old and key in new:
                found = first_difference(old[key], new[key], place)
            else:
                found = f"{place} was {_written(old, key)}, is {_written(new, key)}"
            if found is not None:
                return found
    return f"{path} was {old!r}, is {new!r}"


def _written(settings: dict[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not there"
