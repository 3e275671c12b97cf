"""Functions in a process of their own, forked from this one: it has imported everything."""

import multiprocessing
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def in_a_process(function: Callable[[], Result]) -> Result:
    """Return what a function returns in a process of its own; limits that it sets end with that process."""
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    process = fork.Process(target=lambda: there.send(function()))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise RuntimeError("the process ended without a result; its error is in the captured output") from None
    finally:
        process.join()
