"""Stopped by the clock or by a signal, a run keeps its state, says 75, and ends with the same bytes."""

import os
import re
import signal

import pytest

from asr_kd.errors import StoppedEarly
from asr_kd.recipe.context import RunContext, Stop, stop_on
from asr_kd.recipe.pipeline import run_recipe
from asr_kd.recipe.settings import load_recipe
from tests.helpers.processes import Started, command_line
from tests.helpers.tiny_run import Run, hashes

TEMPFAIL = 75
RESULTS = re.compile(
    r"(manifests/.*|(teachers|students)/.*/model/.*|(teachers|students)/.*/curve\.jsonl|targets/.*/(shard|store|fid).*"
    r"|report/hypotheses/.*)"
)


def results(run: Run) -> dict[str, str]:
    """Hashes of what does not hold times of day or speeds."""
    return {name: digest for name, digest in hashes(run.work_dir).items() if RESULTS.fullmatch(name)}


@pytest.mark.slow
def test_a_run_that_is_stopped_all_the_time_ends_with_the_same_bytes(finished, tmp_path):
    run = Run(tmp_path / "run", finished.corpus_root)
    stops: list[str] = []
    for _ in range(40):
        outcome = run.command("run", "--to", "evaluate", "--max-minutes", "0")
        if outcome.code == 0:
            break
        assert outcome.code == TEMPFAIL
        assert "--max-minutes 0 are over" in outcome.err or "extraction stopped" in outcome.err
        assert "again" in outcome.err
        assert len(outcome.err.splitlines()) == 1
        stops.append(outcome.err)
    else:
        pytest.fail(f"never finished: {stops[-1]}")
    assert sum("training of teacher stopped" in said for said in stops) > 1
    assert sum("training of student-kd stopped" in said for said in stops) > 1
    expected = results(finished)
    assert len(expected) > 20
    assert results(run) == expected


@pytest.mark.slow
def test_sigterm_in_training_saves_the_state_and_says_75(copy):
    long = ["students.student-hard.train.epochs=5000", "students.student-hard.train.average_best=2"]
    process = Started(command_line, *copy.words("distill", *long, "--only", "student-hard"))
    for line in process.stdout:
        if "epoch 2/5000" in line:
            process.send_signal(signal.SIGTERM)
            break
    code, out, err = process.end()
    assert code == TEMPFAIL, err
    assert "training of student-hard stopped (SIGTERM)" in err
    assert "its state is saved" in err
    assert "Traceback" not in out + err
    saved = sorted(copy.file("students", "student-hard", "checkpoints").iterdir())
    assert saved
    assert f"step {int(saved[-1].name.removeprefix('step-'))}; its state is saved" in err

    outcome = copy.command("distill", *long, "--only", "student-hard", "--max-minutes", "0")
    assert outcome.code == TEMPFAIL
    assert "[student student-hard] resumes" in outcome.out
    epoch = int(re.search(r"resumes at epoch (\d+)", outcome.out)[1])
    assert epoch >= 3


@pytest.mark.slow
def test_a_signal_between_stages_stops_before_the_next(copy):
    recipe = load_recipe(copy.file("recipe.resolved.yaml"), [f"work_dir={copy.work_dir}"])
    context = RunContext(recipe, should_stop=lambda: Stop("SIGTERM", urgent=True))
    assert run_recipe(context) is False  # nothing to do: nothing to stop
    with pytest.raises(StoppedEarly, match=r"stopped \(SIGTERM\) after evaluate"):
        run_recipe(context, first="evaluate", force=True)
    assert run_recipe(context, first="evaluate", last="evaluate", force=True) is True


def test_the_first_signal_asks_and_the_second_gets_through():
    reached: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: reached.append(number))
    try:
        with stop_on(None) as stop:
            assert stop() is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop() == Stop("SIGTERM", urgent=True)
            assert reached == []
            os.kill(os.getpid(), signal.SIGTERM)
            assert reached == [signal.SIGTERM]
        with stop_on(0) as stop:
            assert stop() == Stop("--max-minutes 0 are over", urgent=False)
        with stop_on(1e6) as stop:
            assert stop() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(reached) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_among_several_processes_every_signal_only_asks_to_the_end():
    before = signal.getsignal(signal.SIGTERM)
    try:
        with stop_on(None, patient=True) as stop:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
                assert stop() == Stop("SIGTERM", urgent=True)
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun's, while we say why we leave
    finally:
        signal.signal(signal.SIGTERM, before)
