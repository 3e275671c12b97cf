"""The processes of a run that torchrun started, and their collective communication; trivial without torchrun.

Objects and a few numbers are sent over gloo, with a timeout so long that the first process may evaluate for hours;
gradients on GPUs are reduced over NCCL.
"""

import importlib
import logging
import os
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from asr_kd.errors import AsrKdError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets."""
TORCHRUN_NAMES = NAMES[:3]
"""Those that only torchrun sets: without any of them there is one process."""
WAIT = timedelta(days=30)
"""Timeout of collectives: the first process may evaluate for hours, and torchrun ends all when one dies."""
JOIN = timedelta(minutes=30)
"""Timeout for the other processes to start."""
FIRST_REPORTS = timedelta(seconds=2)
"""Time in which the first process may report an error that all of them have, before another one does."""
LINGER_SECONDS = 3.0
"""Time in which the first process, which may hold the key-value store, lets the others read about a failure."""


class Ranks:
    """The processes of a run. All processes call every method except the properties.

    Args:
        rank: of this process, from 0; the first one prints, decides and writes.
        count: number of processes.
        local_rank: rank on this machine, also the number of its GPU.
        store: key-value store of all processes; None for a single process.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, store: Any = None) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank
        self._store = store
        self._gpu_group: Any = None

    @property
    def first(self) -> bool:
        """Whether this process prints, decides and writes."""
        return self.rank == 0

    @property
    def name(self) -> str:
        return f"process {self.rank} of {self.count}"

    def use(self, device: torch.device) -> None:
        """Open NCCL for tensors on GPUs."""
        if device.type == "cuda" and self.count > 1:
            torch.cuda.set_device(device)
            self._gpu_group = dist.new_group(backend="nccl")

    def barrier(self) -> None:
        """Wait for all processes."""
        self.gather(None)

    def sum(self, tensor: Tensor) -> None:
        """All-reduce a tensor of the same shape in all processes to its sum, in place."""
        if self.count > 1:
            with _together():
                dist.all_reduce(tensor, group=self._gpu_group if tensor.is_cuda else None)

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all processes."""
        if self.count == 1:
            return value
        values = [value]
        with _together():
            dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in the order of ranks, in all processes."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with _together():
            dist.all_gather_object(values, value)
        return values

    def earlier_failure(self, exit_code: int) -> int | None:
        """Record a failure of this process; return the exit code of an earlier one, else None."""
        if self._store is None:
            return None
        earlier = None
        with suppress(RuntimeError):  # the store is gone with its process: then every process reports
            if not self.first:
                with suppress(dist.DistStoreError):  # timeout: only this process has failed
                    self._store.wait(["exit_code"], FIRST_REPORTS)
            if self._store.add("failures", 1) > 1:
                earlier = int(self._store.get("exit_code"))
            else:
                self._store.set("exit_code", str(exit_code))
            self._store.add("read", 1)  # the process of the store may leave
        return earlier

    def leave(self) -> None:
        """Close the process group after a failure, so that the others notice."""
        dist.destroy_process_group()
        until = time.monotonic() + LINGER_SECONDS
        with suppress(RuntimeError):
            while self.first and self._store.add("read", 0) < self.count and time.monotonic() < until:
                time.sleep(0.05)


ALONE = Ranks()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the time of the block; a single process without torchrun.

    An error that leaves the block is reported once: by the first process if it has it too, else by one that has it,
    with its rank; the others exit without a message, with the same exit code.

    Raises:
        AsrKdError: torchrun's environment is incomplete or invalid.
        SystemExit: another process has failed and reported it.
    """
    place = local_rank()
    if place is None:
        yield Ranks()
        return
    _import_before_the_group_exists()
    with _together():
        store, rank, count = next(iter(dist.rendezvous("env://")))
        store = dist.PrefixStore(_run_name(store, rank, count), store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=WAIT)
    ranks = Ranks(rank, count, place, dist.PrefixStore("failures", store))
    if not ranks.first:
        _prefix_warnings(ranks.name)
    try:
        yield ranks
    except BaseException as error:
        code = ranks.earlier_failure(_exit_code(error))
        _forget_locals(error)
        ranks.leave()
        if code is not None:
            raise SystemExit(code) from error
        if isinstance(error, AsrKdError) and not ranks.first:
            error.args = (f"{ranks.name}: {error}",)
        raise
    dist.destroy_process_group()


def local_rank() -> int | None:
    """Return the rank on this machine from torchrun's environment; None without torchrun.

    Raises:
        AsrKdError: that environment is incomplete or invalid.
    """
    if not any(name in os.environ for name in TORCHRUN_NAMES):
        return None
    missing = [name for name in NAMES if not os.environ.get(name)]
    if missing:
        there = [name for name in NAMES if name not in missing]
        raise AsrKdError(
            f"the environment has {', '.join(there)} but not {', '.join(missing)}",
            expected="all variables that torchrun sets, or none",
            remedy="Start with `torchrun --nproc_per_node N -m asr_kd …`, or unset them to run one process",
        )
    numbers = {name: os.environ[name] for name in (*TORCHRUN_NAMES, "MASTER_PORT")}
    wrong = next((name for name, text in numbers.items() if not text.isdecimal()), None)
    if wrong is None and int(numbers["RANK"]) >= int(numbers["WORLD_SIZE"]):
        wrong = "RANK"
    if wrong is not None:
        raise AsrKdError(
            f"the environment's {wrong} is {numbers[wrong]!r}",
            expected="numbers as torchrun sets them, RANK below WORLD_SIZE",
            remedy="Start with `torchrun --nproc_per_node N -m asr_kd …`, or unset them to run one process",
        )
    return int(numbers["LOCAL_RANK"])


def _run_name(store: Any, rank: int, count: int) -> str:
    """Agree on a prefix of the store's keys that no earlier start used.

    On one machine torchrun keeps the store when it restarts its processes (torch 2.14, whose comment states the
    contrary), with the addresses of dead ones; a process that reads one of them waits for ever. So each process writes
    a unique name, and the first one repeats its own name to all until each has responded.
    """
    mine = uuid.uuid4().hex
    store.set(f"here/{rank}", mine)
    if rank > 0:
        store.wait([f"called/{mine}"], JOIN)
        name = store.get(f"called/{mine}").decode()
        store.set(f"answer/{name}/{rank}", "")
        return str(name)
    until = time.monotonic() + JOIN.total_seconds()
    absent = set(range(1, count))
    while absent:
        for other in [other for other in absent if store.check([f"here/{other}"])]:
            store.set(f"called/{store.get(f'here/{other}').decode()}", mine)
        absent = {other for other in absent if not store.check([f"answer/{mine}/{other}"])}
        if time.monotonic() > until:
            raise RuntimeError(f"process {min(absent)} of {count} did not come")
        time.sleep(0.02)
    return mine


def _import_before_the_group_exists() -> None:
    """Import torch's functions whose default argument is the process group, while there is none.

    The first optimizer imports them otherwise (torch 2.14: through torch._dynamo). Their defaults then hold the group,
    `destroy_process_group` cannot end its threads, and the interpreter sometimes aborts at exit ("terminate called
    without an active exception": 4 of 240 processes).
    """
    importlib.import_module("torch.distributed.nn.functional")


def _forget_locals(error: BaseException | None) -> None:
    """Release the locals of failed calls, the process group among them, for the same reason."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _together() -> Iterator[None]:
    """Convert errors of collectives, which fail when a process is gone."""
    try:
        yield
    except RuntimeError as error:
        message = str(error).strip().split("\n", 1)[0].split(". ", 1)[0]  # without torch's C++ traces
        raise AsrKdError(
            f"another process of this run is gone, or cannot be reached ({message})",
            expected="all processes that torchrun started",
            remedy="Run the same command again to go on from the last checkpoint (torchrun --max-restarts does so)",
        ) from error


def _prefix_warnings(name: str) -> None:
    """Prefix warnings of this process with its name."""
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))


def _exit_code(error: BaseException) -> int:
    if isinstance(error, AsrKdError):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1
