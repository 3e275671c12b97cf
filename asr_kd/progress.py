"""How long work tells that it goes on: a bar on a terminal, plain lines elsewhere. Never decides anything.

A piece of work takes a `Progress` and calls it; tests and libraries pass `SILENT`.
"""

import sys
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_INTERVAL_SECONDS = 20.0


class Progress(Protocol):
    """What work reports to."""

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """So much of `label` is done, counted in `unit` (with a note, for example the loss)."""

    def message(self, text: str) -> None:
        """A line that stays."""


class Silent:
    """Reports nothing."""

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


SILENT = Silent()


class Aside:
    """What another process of the same run reports: no bars, and its lines with its name.

    Args:
        inner: what prints.
        name: of the process.
    """

    def __init__(self, inner: Progress, name: str) -> None:
        self.inner, self.name = inner, name

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """Nothing: one bar is enough."""

    def message(self, text: str) -> None:
        """A line that stays, with whose it is."""
        self.inner.message(f"{self.name}: {text}")


class ConsoleProgress:
    """A bar with speed and time left on a terminal; a line every 20 seconds when the output is a file."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._label = ""
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._started = self._printed = 0.0
        self._first = 0.0

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """See `Progress`; a new label begins a new bar."""
        now = time.monotonic()
        if label != self._label:
            self.close()
            self._label, self._started, self._printed, self._first = label, now, now, done
            if self.console.is_terminal:
                self._open(label, total)
        rate = (done - self._first) / max(now - self._started, 1e-6)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total, speed=f"{rate:.1f} {unit}/s", note=note)
        elif now - self._printed >= PLAIN_INTERVAL_SECONDS:
            self._printed = now
            left = (total - done) / rate if rate > 0 else float("inf")
            line = f"  {label}: {done:.0f}/{total:.0f} {unit}, {rate:.1f} {unit}/s, {_clock(left)} left {note}"
            self.console.print(line.rstrip(), markup=False)
        if done >= total:
            self.close()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        (self._bar.console if self._bar is not None else self.console).print(text, markup=False)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task, self._label = None, None, ""

    def _open(self, label: str, total: float) -> None:
        self._bar = RichProgress(
            TextColumn("  {task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}% {task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(label, total=total, speed="", note="")


def _clock(seconds: float) -> str:
    if seconds == float("inf"):
        return "–"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
