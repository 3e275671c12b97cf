"""Damaged copies of bytes and files, drawn by a seed; what is made of them, and the memory that this may cost."""

import contextlib
import json
import random
import re
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from asr_kd.errors import AsrKdError
from asr_kd.files import json_text

NUMBERS = (
    b"0",
    b"-1",
    b"1e309",
    b"99999999999999999999",
    b"NaN",
    b"null",
    b'""',
    b"[]",
    b"{}",
    b"true",
    b'"..\\u0000"',
)
MEMORY_MB = 400
"""Growth of the process that a whole fuzzer may cost."""


def mutations(content: bytes, seed: str, count: int) -> Iterator[bytes]:
    """Flipped bits, other bytes, cuts, doubled, removed and moved stretches, and other JSON values for numbers."""
    generator = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(generator.choice([1, 1, 1, 2, 5])):
            _mutate(changed, generator)
        yield bytes(changed)


def _mutate(changed: bytearray, generator: random.Random) -> None:
    if not changed:
        return
    at, length = generator.randrange(len(changed)), generator.randrange(1, 40)
    match generator.choice(["bit", "byte", "cut", "double", "remove", "move", "number", "nest"]):
        case "bit":
            changed[at] ^= 1 << generator.randrange(8)
        case "byte":
            changed[at] = generator.randrange(256)
        case "cut":
            del changed[at:]
        case "double":
            changed[at:at] = changed[at : at + length]
        case "remove":
            del changed[at : at + length]
        case "move":
            stretch = changed[at : at + length]
            del changed[at : at + length]
            to = generator.randrange(len(changed) + 1)
            changed[to:to] = stretch
        case "number":
            digits = [found.start() for found in re.finditer(rb"[0-9]", changed)]
            if digits:
                start = end = generator.choice(digits)
                while end < len(changed) and chr(changed[end]) in "0123456789.e-":
                    end += 1
                changed[start:end] = generator.choice(NUMBERS)
        case "nest":
            changed[at:at] = generator.choice([b"[", b"{", b'"', b"\\", b"\0", b"\n"]) * generator.choice([1, 5_000])


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Assert that the process does not grow by more than `MEMORY_MB`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEMORY_MB, f"{grown:.0f} MB more than before"


def damaged_copies(path: Path, count: int, seed: str = "") -> Iterator[None]:
    """Write `count` damaged copies of a file in its place, one after another, and its own content at the end."""
    content = path.read_bytes()
    for changed in mutations(content, seed or path.name, count):
        path.write_bytes(changed)
        yield
    path.write_bytes(content)


def copies_that_fit(
    path: Path, index: Path, count: int, refer: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[None]:
    """Write damaged copies whose hashes fit, as a hostile writer would.

    Args:
        path: the damaged file; may be the index itself.
        index: JSON file that holds the hashes.
        count: number of copies; those of an index that are no JSON mapping are left out.
        refer: function from the content of the index to that with the hash of the damaged file.
    """
    content, described = path.read_bytes(), json.loads(index.read_text())
    for changed in mutations(content, f"hostile {path.name}", count):
        if path == index:
            try:
                given = json.loads(changed)
            except (ValueError, RecursionError):
                continue
            if not isinstance(given, dict):
                continue
            path.write_text(json_text(given))
        else:
            path.write_bytes(changed)
            index.write_text(json_text(refer(described)))
        yield


def outcomes_of(copies: Iterable[object], attempt: Callable[[], str]) -> Counter[str]:
    """Count what `attempt` returns for each copy, within the bounds of memory; errors of this project are "refused"."""
    outcomes: Counter[str] = Counter()
    with bounded_memory():
        for number, _ in enumerate(copies):
            try:
                outcomes[attempt()] += 1
            except AsrKdError:
                outcomes["refused"] += 1
            except Exception as error:
                error.add_note(f"damaged copy number {number}")
                raise
    return outcomes
