"""What was made or read for an utterance stays in memory, as far as that goes."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

from torch import Tensor

Made = TypeVar("Made", bound=tuple[Any, ...])


class MemoryCache:
    """Tuples of tensors and plain values by any key, until the memory given is used up; what is in stays.

    Epochs visit everything once in another order, where dropping the oldest would keep nothing useful.

    Args:
        megabytes: for the tensors' numbers.
    """

    def __init__(self, megabytes: int) -> None:
        self._left_bytes = megabytes * 1_000_000
        self._kept: dict[Hashable, tuple[Any, ...]] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What is under `key`, made when it is not there yet; nobody may change it."""
        if key in self._kept:
            return cast(Made, self._kept[key])
        made = make()
        self._keep(key, made)
        return made

    def _keep(self, key: Hashable, made: tuple[Any, ...]) -> None:
        size = sum(part.numel() * part.element_size() for part in made if isinstance(part, Tensor))
        if key not in self._kept and size <= self._left_bytes:
            self._left_bytes -= size
            self._kept[key] = made
