"""Memory in its own process, energy from counters made here, milliseconds a chunk by a clock of our own."""

import pytest
import torch

from asr_kd.errors import EvaluationError
from asr_kd.evaluation import cost_measures
from asr_kd.evaluation import cost_report as cost_report_module
from asr_kd.evaluation.cost_measures import Memory, counters, how_to_open, measure_energy, measure_memory
from asr_kd.evaluation.cost_report import chunk_milliseconds, cost_report, measure_costs
from asr_kd.evaluation.open_systems import open_system, open_teacher_system
from asr_kd.evaluation.system import System
from asr_kd.models.settings import Context
from tests.evaluation.test_cost import Clock
from tests.helpers.spelled import SpellingTeacher
from tests.helpers.tiny_models import noise_speech, save_tiny_model


def counter(root, name, used, wraps_at=10**9):
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text(f"{used}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return folder


def test_packages_are_added_up_and_their_parts_are_not(tmp_path):
    first, second = counter(tmp_path, "intel-rapl:0", 5_000_000), counter(tmp_path, "intel-rapl:1", 999_999_000)
    counter(tmp_path, "intel-rapl:0:0", 1)

    def job():
        (first / "energy_uj").write_text("8000000")
        (second / "energy_uj").write_text("999")  # began again from 0

    assert [item.path.name for item in counters(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    assert measure_energy(job, tmp_path) == (pytest.approx(3.0 + 0.002), None)


def test_without_counters_nothing_runs_and_the_reason_is_said(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()  # one that may not be read
    found = measure_energy(lambda: pytest.fail("it ran"), tmp_path)
    assert found.joules is None
    assert found.reason.startswith("not readable here: no energy counter")


class Chunked:
    """Takes 3 ms a packet, and 500 ms for the first of a stream."""

    context = Context(8, 64)

    def __init__(self, clock):
        self.clock = clock
        self.lengths = []

    def stream(self):
        self.fresh = True
        return self

    def accept(self, samples):
        self.lengths.append(len(samples))
        self.clock.now += 0.5 if self.fresh else 0.003
        self.fresh = False


def test_each_chunk_is_timed_but_the_first_of_a_stream():
    clock = Clock()
    recognizer = Chunked(clock)
    times = chunk_milliseconds(recognizer, [torch.zeros(3 * 5_120 + 100), torch.zeros(5_120)], clock=clock)
    assert times == [pytest.approx(3.0)] * 2
    assert recognizer.lengths == [5_120, 5_120, 5_120, 100] * 2 + [5_120]  # the first utterance warms up


def test_a_model_is_opened_in_a_process_of_its_own(tmp_path):
    system = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    found = measure_memory(system, [8_000])
    assert found.reason is None
    assert found.peak_bytes > found.before_bytes > 20_000_000


def test_what_cannot_be_opened_again_says_so(tmp_path, monkeypatch):
    assert measure_memory(System("x", "other", object()), [1]).reason.startswith("not measured: it cannot be opened")
    system = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    assert how_to_open(system) == {"folder": str(tmp_path / "model")}
    monkeypatch.setattr(cost_measures.sys, "executable", "/no/such/python")
    assert "its own process failed" in measure_memory(system, [1]).reason
    monkeypatch.setattr(cost_measures, "STATUS", tmp_path / "none")
    assert measure_memory(system, [1]).reason == "not readable here: no /proc/self/status"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torchaudio:X", {"source": "torchaudio:X", "precision": "bf16"}),
        ("recipe:x", None),
        ([{"source": "x"}], None),
    ],
)
def test_a_teacher_from_elsewhere_is_opened_by_its_source(source, expected):
    details = {"source": source, "precision": "bf16"}
    assert how_to_open(open_teacher_system("t", SpellingTeacher({}), details=details)) == expected


def test_all_costs_stand_together_with_their_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_report_module, "measure_memory", lambda system, samples: Memory(3_000, 1_000, None))
    student = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    teacher = open_teacher_system("t", SpellingTeacher({}))
    waveforms = [noise_speech(0.6)]
    timed = measure_costs([teacher, student], waveforms)
    found = cost_report([teacher, student], timed, waveforms, memory=True)
    own = found["student_kd"]
    assert own["parameters"] == student.parameters
    assert own["macs_per_second"] > 0
    assert own["size_bytes"]["fp32"] > own["size_bytes"]["int8"] > 0
    assert own["rtf"]["streamed"] > 0
    assert (own["rss_bytes"], own["rss_before_bytes"], own["rss_reason"]) == (3_000, 1_000, None)
    assert own["chunk_ms"]["p99"] >= own["chunk_ms"]["p50"] > 0
    assert own["chunk_ms"]["chunks"] == 2
    assert (found["teacher"]["chunk_ms"], found["teacher"]["chunk_reason"]) == (None, "it does not stream")
    assert (found["teacher"]["size_bytes"]["fp32"], found["teacher"]["rtf"]["streamed"]) == (4_000, None)
    nothing = cost_report([student], timed, [], memory=False)["student_kd"]
    assert (nothing["rss_reason"], nothing["chunk_ms"]) == ("not measured: evaluate.memory is off", None)
    assert nothing["energy_reason"] == "no utterance is timed (evaluate.rtf_utterances)"


def test_the_weights_must_be_there(tmp_path):
    with pytest.raises(EvaluationError, match="no such file"):
        measure_costs([System("x", "other", object(), weights=tmp_path / "none")], [])
