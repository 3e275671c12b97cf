"""Plain lines where the output is a file, a bar on a terminal."""

import io
import threading

import pytest
from rich.console import Console

from asr_kd import progress as module
from asr_kd.progress import SILENT, ConsoleProgress, PrefixedProgress


class Clock:
    """A clock that tests advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


def make(terminal: bool = False) -> tuple[ConsoleProgress, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, highlight=False, soft_wrap=True, width=100)
    return ConsoleProgress(console), output


def test_a_plain_line_every_so_often_with_speed_and_time_left(clock):
    progress, output = make()
    progress.update("train a", 100, 1000, "steps")
    clock.now += 10
    progress.update("train a", 150, 1000, "steps")
    assert output.getvalue() == ""
    clock.now += 15
    progress.update("train a", 200, 1000, "steps", "loss 1.5")
    # 100 steps in 25 s since the first update, 800 left: 200 s.
    assert output.getvalue() == "  train a: 200/1000 steps, 4.0 steps/s, 0:03:20 left loss 1.5\n"


def test_a_new_label_begins_anew(clock):
    progress, output = make()
    progress.update("one", 0, 10, "files")
    clock.now += 100
    progress.update("two", 5, 10, "files")
    assert output.getvalue() == ""
    clock.now += 25
    progress.update("two", 5, 10, "files")
    assert output.getvalue() == "  two: 5/10 files, 0.0 files/s, – left\n"


def test_messages_keep_their_brackets(clock):
    for terminal in (False, True):
        progress, output = make(terminal)
        progress.update("work", 1, 10, "files", "[bold]")
        progress.message("[teacher] starts [/nothing]")
        clock.now += 30
        progress.update("work [b]", 1, 10, "files", "[/b]")
        clock.now += 30
        progress.update("work [b]", 2, 10, "files", "[/b]")
        progress.close()
        assert "[teacher] starts [/nothing]" in output.getvalue()
        assert "work [b]" in output.getvalue()
        assert "[/b]" in output.getvalue()


def test_a_terminal_gets_a_bar_that_ends_and_leaves_nothing_running():
    progress, output = make(terminal=True)
    threads = set(threading.enumerate())
    progress.update("extract", 1, 3, "s of audio", "note")
    [thread] = set(threading.enumerate()) - threads  # which draws the bar
    progress.message("a line that stays")
    progress.update("extract", 3, 3, "s of audio")
    thread.join(60)
    assert not thread.is_alive()
    assert "extract" in output.getvalue()
    assert "a line that stays" in output.getvalue()
    progress.close()


def test_silent_prints_nothing(capsys):
    SILENT.update("a", 1, 2, "b")
    SILENT.message("c")
    assert capsys.readouterr() == ("", "")


def test_another_process_prefixes_its_lines_and_draws_no_bar():
    progress, output = make()
    other = PrefixedProgress(progress, "process 1 of 2")
    other.update("train a", 1, 1, "steps")
    other.message("left out u1")
    assert output.getvalue() == "process 1 of 2: left out u1\n"
