"""Damaged copies of bytes, drawn by a seed, for the fuzzers; and a limit on the memory that they may cost."""

import contextlib
import random
import resource
from collections.abc import Iterator

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
            digits = [place for place, byte in enumerate(changed) if chr(byte).isdigit()]
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
