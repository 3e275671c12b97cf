"""What two processes do together, for `test_distributed`."""

import json
import logging
import os
import signal
import sys
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


def run_rank(kind: str) -> None:
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
