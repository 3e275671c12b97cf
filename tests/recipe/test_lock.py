"""Two runs at one unit of work."""

import multiprocessing
from contextlib import contextmanager
from pathlib import Path

import pytest

from asr_kd.errors import AsrKdError
from asr_kd.recipe.lock import alone


def _hold(path: Path, held, let_go) -> None:
    with alone(path, "student a"):
        held.set()
        let_go.wait(30)


@contextmanager
def another_run(path: Path):
    """A process that holds the lock, and the event that lets it go on."""
    spawn = multiprocessing.get_context("spawn")
    held, let_go = spawn.Event(), spawn.Event()
    other = spawn.Process(target=_hold, args=(path, held, let_go))
    other.start()
    assert held.wait(30)
    yield other, let_go
    let_go.set()
    other.join(30)


def test_the_second_run_is_told_who_is_at_it(tmp_path):
    path = tmp_path / "stages" / "student-a.lock"
    with another_run(path) as (other, _):
        message = f"student a.*process {other.pid}"
        with pytest.raises(AsrKdError, match=message), alone(path, "student a", 0.0):
            pass
    with alone(path, "student a", 0.0):
        assert path.is_file()
    assert path.read_text() == ""


def test_a_killed_run_leaves_no_lock(tmp_path):
    path = tmp_path / "x.lock"
    with another_run(path) as (other, _):
        other.kill()
        other.join(30)
        with alone(path, "student a", 0.0):
            assert path.read_text() != str(other.pid)


def test_a_short_hold_is_waited_for(tmp_path):
    path = tmp_path / "x.lock"
    with another_run(path) as (_, let_go):
        let_go.set()
        with alone(path, "student a", 30.0):
            pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AsrKdError, match="cannot be written"), alone(tmp_path / "file" / "x.lock", "student a"):
        pass
