"""Who we are among a run's processes, how they talk, and how trouble in one of them is told: once."""

import json

import pytest
import torch

from asr_kd.distributed import ALONE, NAMES, open_ranks
from asr_kd.errors import AsrKdError
from tests.helpers.in_processes import KINDS, run_rank
from tests.helpers.processes import start_ranks

Ended = list[tuple[int, str, str]]


@pytest.fixture(scope="module")
def ended() -> dict[str, Ended]:
    """Exit code, output and complaints of each of two processes, by what they do."""
    begun = {kind: start_ranks(run_rank, kind) for kind in KINDS}
    return {kind: [process.end() for process in both] for kind, both in begun.items()}


def complaints(ended: Ended) -> list[str]:
    return [line for _, _, err in ended for line in err.splitlines() if line.startswith("asr-kd:")]


def test_alone_everything_is_trivial():
    with open_ranks() as ranks:
        assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
        assert ranks.gather({1, 2}) == [{1, 2}]  # nothing is packed
        tensor = torch.ones(3)
        ranks.sum(tensor)
        assert tensor.tolist() == [1, 1, 1]
        ranks.barrier()
    assert ALONE.broadcast("x") == "x"


def test_an_environment_that_is_half_there_is_refused(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "somewhere")  # others set this too: it says nothing
    with open_ranks() as ranks:
        assert ranks.count == 1
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(AsrKdError, match=r"RANK, WORLD_SIZE, MASTER_ADDR but not LOCAL_RANK, MASTER_PORT.*torchrun"):
        open_ranks().__enter__()
    monkeypatch.setenv("LOCAL_RANK", "x")
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(AsrKdError, match="LOCAL_RANK is 'x'"):
        open_ranks().__enter__()
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(AsrKdError, match=r"RANK is '2'.*below WORLD_SIZE"):
        open_ranks().__enter__()


def test_two_processes_talk_and_sign_their_warnings(ended):
    both = ended["talks"]
    assert [code for code, _, _ in both] == [0, 0]
    assert [json.loads(out) for _, out, _ in both] == [[[{"rank": 0}, {"rank": 1}], 0, 3000]] * 2
    assert [err.splitlines() for _, _, err in both] == [["something odd"], ["process 1 of 2: something odd"]]


def test_no_thread_of_the_talk_outlives_it(ended):
    assert [code for code, _, _ in ended["train"]] == [0, 0]
    assert not any("still there" in err for both in ended.values() for _, _, err in both)


@pytest.mark.parametrize(
    ("kind", "said", "codes"),
    [
        ("second_fails", "asr-kd: process 1 of 2: its disk is full", [1, 1]),
        ("all_stop", "asr-kd: the time is over", [75, 75]),
        ("first_stops", "asr-kd: the time is over", [75, 75]),
        ("second_is_killed", "asr-kd: another process of this run is gone", [1, -9]),
    ],
)
def test_trouble_is_said_once_and_all_leave_with_its_code(ended, kind, said, codes):
    both = ended[kind]
    assert [code for code, _, _ in both] == codes, both
    assert len(complaints(both)) == 1, both
    assert complaints(both)[0].startswith(said)
    assert not any("Traceback" in err for _, _, err in both)


def test_a_bug_is_shown_by_the_process_that_has_it(ended):
    both = ended["second_has_a_bug"]
    assert [code for code, _, _ in both] == [1, 1]
    assert ["Traceback" in err for _, _, err in both] == [False, True]
    assert complaints(both) == []
