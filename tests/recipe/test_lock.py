"""Two runs that work on one task."""

import multiprocessing
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from asr_kd.errors import AsrKdError
from asr_kd.recipe.stage import hold_lock


def _hold(path: Path, pipe: Connection, other_end: Connection) -> None:
    other_end.close()
    with hold_lock(path, "student a"):
        pipe.send("held")
        pipe.poll(60)


@contextmanager
def another_run(path: Path):
    """A process that holds the lock until the pipe to it is closed.

    A pipe and no event: setting an event waits for those that wait on it, and a killed process never answers.
    """
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    other = fork.Process(target=_hold, args=(path, there, here))
    other.start()
    there.close()
    assert here.poll(60), "the other run did not start"
    yield other, here
    here.close()
    other.join(60)


def test_the_second_run_is_told_who_is_at_it(tmp_path):
    path = tmp_path / "stages" / "student-a.lock"
    with another_run(path) as (other, _):
        message = f"student a.*process {other.pid}"
        with pytest.raises(AsrKdError, match=message), hold_lock(path, "student a", 0.0):
            pass
    with hold_lock(path, "student a", 0.0):
        assert path.is_file()
    assert not path.exists()


def test_a_killed_run_leaves_no_lock(tmp_path):
    path = tmp_path / "x.lock"
    with another_run(path) as (other, _):
        other.kill()
        other.join(30)
        with hold_lock(path, "student a", 0.0):
            assert path.read_text() != str(other.pid)


def test_a_short_hold_is_waited_for(tmp_path):
    path = tmp_path / "x.lock"
    with another_run(path) as (_, pipe):
        pipe.close()
        with hold_lock(path, "student a", 30.0):
            pass


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AsrKdError, match="cannot be written"), hold_lock(tmp_path / "file" / "x.lock", "student a"):
        pass
    (tmp_path / "x.lock").mkdir()
    with pytest.raises(AsrKdError, match=r"x\.lock: cannot be written"), hold_lock(tmp_path / "x.lock", "student a"):
        pass
