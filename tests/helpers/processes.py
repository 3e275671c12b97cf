"""Processes of their own, forked from a server that has imported the package once: each import takes seconds."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

os.environ["SB_LOG_LEVEL"] = "WARNING"  # as the command line sets it; importing speechbrain leaves another value behind
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["asr_kd.recipe.pipeline", "asr_kd.training.train", "asr_kd.cli"])


class Started:
    """A function in a process of its own; `stdout` can be read while it runs."""

    def __init__(
        self, function: Callable[..., object], *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        ours, theirs = zip(*(SERVER.Pipe(duplex=False) for _ in range(2)), strict=True)
        self._process = SERVER.Process(target=_run, args=(theirs, dict(environment or {}), function, arguments))
        self._process.start()
        for end in theirs:
            end.close()
        self.stdout, stderr = (os.fdopen(os.dup(end.fileno()), encoding="utf-8") for end in ours)
        # Read from the start: a process waits when a pipe that nobody reads is full.
        self._stderr = ThreadPoolExecutor(1).submit(stderr.read)

    @property
    def is_running(self) -> bool:
        return self._process.is_alive()

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Exit code (negative: a signal), and what is left of stdout and stderr."""
        out, err = self.stdout.read(), self._stderr.result()
        self._process.join()
        return self._process.exitcode, out, err


def _run(
    ends: tuple[Connection, ...],
    environment: dict[str, str],
    function: Callable[..., object],
    arguments: tuple[object, ...],
) -> None:
    for number, end in enumerate(ends, start=1):
        os.dup2(end.fileno(), number)
        end.close()
    sys.stdout.reconfigure(line_buffering=True)
    os.environ.update(environment)
    function(*arguments)


def command_line(*words: str) -> None:
    """What the console script does, for `Started`."""
    from asr_kd.cli import main

    sys.argv = ["asr-kd", *words]
    main()


def start_ranks(function: Callable[..., object], *arguments: object) -> list[Started]:
    """Start two processes that find one another, with the environment that torchrun gives to its own."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return [
        Started(function, *arguments, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
