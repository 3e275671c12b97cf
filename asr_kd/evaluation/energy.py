"""Energy that the processor used, where the machine's counters can be read (Linux powercap: Intel and AMD RAPL).

A counter is of a whole processor package: whatever else runs on the machine is in it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

POWERCAP = Path("/sys/class/powercap")
MICRO = 1e-6


class Energy(NamedTuple):
    """What a job used."""

    joules: float | None
    reason: str | None
    """Why there is no number."""


class Counter(NamedTuple):
    """One package's counter."""

    path: Path
    wraps_at: int
    """Microjoules at which it begins again from 0."""

    def read(self) -> int:
        """Microjoules since some time."""
        return int((self.path / "energy_uj").read_text(encoding="ascii"))


def counters(root: Path = POWERCAP) -> list[Counter]:
    """The packages' counters that this process may read; their parts (cores, memory), which lie below, are not counted
    again."""
    found = []
    for path in sorted(root.glob("*-rapl:*")):
        if path.name.count(":") != 1:
            continue
        try:
            counter = Counter(path, int((path / "max_energy_range_uj").read_text(encoding="ascii")))
            counter.read()
        except (OSError, ValueError):
            continue
        found.append(counter)
    return found


def measure_energy(job: Callable[[], object], root: Path = POWERCAP) -> Energy:
    """Run `job` and say what the packages used meanwhile. Without counters it does not run at all.

    A counter that began again is read right once; a job must be shorter than its period (minutes to hours).
    """
    readable = counters(root)
    if not readable:
        return Energy(None, f"not readable here: no energy counter under {root} that this user may read")
    before = [counter.read() for counter in readable]
    job()
    after = [counter.read() for counter in readable]
    used = [(end - start) % (counter.wraps_at + 1) for counter, start, end in zip(readable, before, after, strict=True)]
    return Energy(sum(used) * MICRO, None)
