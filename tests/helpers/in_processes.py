"""Processes that do one thing each together, and how they end: forked from one that has imported torch already.

python in_processes.py KIND... prints {KIND: [[exit code, output, complaints] of each process]}.
"""

import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from asr_kd.distributed import Ranks, open_ranks
from asr_kd.errors import AsrKdError, StoppedEarly


def talks(ranks: Ranks) -> None:
    said = ranks.broadcast([ranks.rank, "é" * 3000])
    print(json.dumps([ranks.gather({"rank": ranks.rank}), said[0], len(said[1])]))
    logging.warning("something odd")


def train(ranks: Ranks) -> None:
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports much of torch
    ranks.barrier()


def second_fails(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise AsrKdError("its disk is full")
    ranks.barrier()


def all_stop(ranks: Ranks) -> None:
    raise StoppedEarly("the time is over")


def first_stops(ranks: Ranks) -> None:
    if ranks.first:
        raise StoppedEarly("the time is over")
    ranks.barrier()


def second_is_killed(ranks: Ranks) -> None:
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.barrier()


def second_has_a_bug(ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise KeyError("bug")
    ranks.barrier()


KINDS: dict[str, Callable[[Ranks], None]] = {
    kind.__name__: kind
    for kind in (talks, train, second_fails, all_stop, first_stops, second_is_killed, second_has_a_bug)
}


def be(kind: str) -> None:
    """One of the processes, as the command line would run it."""
    logging.basicConfig(format="%(message)s")
    try:
        with open_ranks() as ranks:
            KINDS[kind](ranks)
    except AsrKdError as error:
        print("asr-kd:", error, file=sys.stderr)
        sys.exit(error.exit_code)
    finally:
        for thread in Path("/proc/self/task").glob("*/comm"):
            if "gloo" in thread.read_text():  # the interpreter may abort at its end while it runs
                print("still there:", thread.read_text().strip(), file=sys.stderr)


def fork(kind: str, rank: int, port: int, folder: Path) -> int:
    """The id of a new process, which writes into files."""
    child = os.fork()
    if child:
        return child
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{name}-{rank}", os.O_WRONLY | os.O_CREAT), number)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="localhost")
    code = 0
    try:
        be(kind)
    except SystemExit as end:
        code = int(end.code or 0)
    except Exception as error:  # noqa: BLE001 - shown as Python would
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def begin(kind: str, folder: Path) -> list[int]:
    """Two processes that do `kind`."""
    folder.mkdir()
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    return [fork(kind, rank, port, folder) for rank in range(2)]


def end(children: list[int], folder: Path) -> list[tuple[int, str, str]]:
    """Exit code, output and complaints of each."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return [
        (code, (folder / f"out-{rank}").read_text(), (folder / f"err-{rank}").read_text())
        for rank, code in enumerate(codes)
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        places = {kind: Path(name) / kind for kind in sys.argv[1:]}
        begun = {kind: begin(kind, place) for kind, place in places.items()}
        print(json.dumps({kind: end(begun[kind], place) for kind, place in places.items()}))
