"""The processes of one run, as torchrun starts them: which one we are, and how they agree. Trivial without torchrun.

Plain data and a few numbers travel over gloo, with a timeout so long that one process may evaluate for hours while
the others wait; gradients on GPUs travel over NCCL. Data travels as JSON: nothing that is received can run code.
"""

import importlib
import json
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
"""What torchrun tells a process through its environment."""
TELLING = NAMES[:3]
"""Those that nobody sets for another reason: without any of them we are alone."""
WAIT = timedelta(days=30)
"""How long a process waits for the others: the first may evaluate for hours, and torchrun ends us if one dies."""
JOIN = timedelta(minutes=30)
"""How long a process waits for the others to start."""
FIRST_SPEAKS = timedelta(seconds=2)
"""How long the others let the first process say what went wrong, where all meet the same trouble."""
LINGER_SECONDS = 3.0
"""How long the first process, which may keep the notes, waits for the others to read that something went wrong."""


class Ranks:
    """The processes of this run, and our place among them. Every method but the properties is called by all of them.

    Args:
        rank: ours among all, from 0; the first one prints, decides and writes.
        count: of all.
        local_rank: ours on this machine, which is also the number of our GPU.
        store: where processes leave each other notes; None when we are alone.
    """

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, store: Any = None) -> None:
        self.rank, self.count, self.local_rank = rank, count, local_rank
        self._store = store
        self._gpu_group: Any = None

    @property
    def first(self) -> bool:
        """Whether we print, decide and write."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """How messages call us."""
        return f"process {self.rank} of {self.count}"

    def use(self, device: torch.device) -> None:
        """Open NCCL where tensors will lie on GPUs."""
        if device.type == "cuda" and self.count > 1:
            torch.cuda.set_device(device)
            self._gpu_group = dist.new_group(backend="nccl")

    def barrier(self) -> None:
        """Wait until all are here."""
        self.gather(None)

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor, of the same shape everywhere, by the sum over all processes."""
        if self.count > 1:
            with _together():
                dist.all_reduce(tensor, group=self._gpu_group if tensor.is_cuda else None)

    def broadcast(self, value: Any) -> Any:
        """The first process' plain data, everywhere; what the others give is not looked at."""
        if self.count == 1:
            return value
        content = _pack(value) if self.first else torch.zeros(0, dtype=torch.uint8)
        size = torch.tensor([len(content)])
        with _together():
            dist.broadcast(size, 0)
            content = content if self.first else torch.zeros(int(size), dtype=torch.uint8)
            dist.broadcast(content, 0)
        return value if self.first else _unpack(content)

    def gather(self, value: Any) -> list[Any]:
        """Everyone's plain data in the order of ranks, everywhere."""
        if self.count == 1:
            return [value]
        content = _pack(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        with _together():
            dist.all_gather(sizes, torch.tensor([len(content)]))
            widest = max(int(size) for size in sizes)
            rows = [torch.zeros(widest, dtype=torch.uint8) for _ in range(self.count)]
            dist.all_gather(rows, torch.nn.functional.pad(content, (0, widest - len(content))))
        return [_unpack(row[: int(size)]) for row, size in zip(rows, sizes, strict=True)]

    def earlier_failure(self, exit_code: int) -> int | None:
        """Note that we fail; the exit code of whoever failed before and has said why, or None when we are to say it."""
        if self._store is None:
            return None
        with suppress(RuntimeError):  # the notes are gone with the process that kept them: then everyone speaks
            if not self.first:
                with suppress(dist.DistStoreError):  # time is up: it is our trouble alone
                    self._store.wait(["exit_code"], FIRST_SPEAKS)
            if self._store.add("failures", 1) > 1:
                return int(self._store.get("exit_code"))
            self._store.set("exit_code", str(exit_code))
        return None

    def leave(self) -> None:
        """End the talk after a failure, so that the others notice."""
        dist.destroy_process_group()
        until = time.monotonic() + LINGER_SECONDS
        with suppress(RuntimeError):
            while self.first and self._store.add("failures", 0) < self.count and time.monotonic() < until:
                time.sleep(0.05)


ALONE = Ranks()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the time of the block; alone, when it started none.

    An error that leaves the block is said once: by the first process if it has it too, else by one that has it, with
    its rank; the others leave silently, with the same exit code.

    Raises:
        AsrKdError: torchrun's environment is half there or makes no sense.
        SystemExit: another process has failed and said why.
    """
    place = local_rank()
    if place is None:
        yield Ranks()
        return
    _import_what_would_keep_the_group()
    with _together():
        store, rank, count = next(iter(dist.rendezvous("env://")))
        store = dist.PrefixStore(_meeting(store, rank, count), store)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=WAIT)
    ranks = Ranks(rank, count, place, dist.PrefixStore("notes", store))
    if not ranks.first:
        _sign_warnings(ranks.name)
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
    """Our number on this machine, from torchrun's environment; None when torchrun has not started us.

    Raises:
        AsrKdError: that environment is half there or makes no sense.
    """
    if not any(name in os.environ for name in TELLING):
        return None
    missing = [name for name in NAMES if not os.environ.get(name)]
    if missing:
        there = [name for name in NAMES if name not in missing]
        raise AsrKdError(
            f"the environment has {', '.join(there)} but not {', '.join(missing)}",
            expected="all that torchrun sets, or none of it",
            remedy="Start with `torchrun --nproc_per_node N -m asr_kd …`, or unset them to run one process",
        )
    numbers = {name: os.environ[name] for name in (*TELLING, "MASTER_PORT")}
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


def _meeting(store: Any, rank: int, count: int) -> str:
    """A name for these processes' meeting that no earlier one had.

    On one machine torchrun keeps the store when it starts its processes again (torch 2.14, whose comment says
    otherwise), with the addresses of those that are dead; whoever read one of them would wait for ever. So each says
    that it is here under a name of its own, and the first one goes on calling until all have answered to its name.
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


def _import_what_would_keep_the_group() -> None:
    """Import torch's functions whose default argument is the processes' group, while there is none.

    The first optimizer imports them otherwise (torch 2.14: through torch._dynamo). Their defaults then hold the group,
    `destroy_process_group` cannot end its threads, and the interpreter now and then aborts at its end, when all is
    done ("terminate called without an active exception": 4 of 240 processes).
    """
    importlib.import_module("torch.distributed.nn.functional")


def _forget_locals(error: BaseException | None) -> None:
    """Let go of what the calls that failed still hold, the group among it, for the same reason."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _together() -> Iterator[None]:
    """What the processes do with each other; it fails when one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        raise AsrKdError(
            f"another process of this run is gone, or cannot be reached ({_first_sentence(error)})",
            expected="all processes that torchrun started",
            remedy="Run the same command again to go on from the last checkpoint (torchrun --max-restarts does so)",
        ) from error


def _first_sentence(error: Exception) -> str:
    """torch's messages carry C++ traces."""
    return str(error).strip().split("\n", 1)[0].split(". ", 1)[0]


def _sign_warnings(name: str) -> None:
    """Warnings of this process reach the user with its name."""
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(logging.Formatter(f"{name}: %(message)s"))


def _exit_code(error: BaseException) -> int:
    if isinstance(error, AsrKdError):
        return error.exit_code
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _pack(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpack(content: Tensor) -> Any:
    return json.loads(content.numpy().tobytes())
