"""Progress of long work: a bar on a terminal, plain lines elsewhere. Libraries and tests pass `SILENT`."""

import sys
import time
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_INTERVAL_SECONDS = 20.0


class Progress(Protocol):
    """Interface that long work reports to."""

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None:
        """Report that `done` of `total` units of `label` are done, with a note such as the loss."""

    def message(self, text: str) -> None:
        """Print a permanent line."""


class Silent:
    """Prints nothing."""

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None: ...

    def message(self, text: str) -> None: ...


SILENT = Silent()


class PrefixedProgress:
    """Progress of a further process of a run: no bars, and messages that begin with the process' name."""

    def __init__(self, inner: Progress, name: str) -> None:
        self.inner, self.name = inner, name

    def update(self, label: str, done: float, total: float, unit: str, note: str = "") -> None: ...

    def message(self, text: str) -> None:
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
        """See `Progress`; a new label starts a new bar."""
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
            left = timedelta(seconds=int((total - done) / rate)) if rate > 0 else "–"
            line = f"  {label}: {done:.0f}/{total:.0f} {unit}, {rate:.1f} {unit}/s, {left} left {note}"
            self.console.print(line.rstrip(), markup=False)
        if done >= total:
            self.close()

    def message(self, text: str) -> None:
        """Print a line above the bar."""
        (self._bar.console if self._bar is not None else self.console).print(text, markup=False)

    def close(self) -> None:
        """Remove the bar."""
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
