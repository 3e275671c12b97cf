"""Costs with a clock of our own: no test measures time."""

import pytest
import torch

from asr_kd.errors import EvaluationError
from asr_kd.evaluation.cost_report import measure_costs, real_time_factors, weights_bytes
from asr_kd.evaluation.system import System


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Slow:
    """Takes so many seconds a second of audio, and as much once more on its first call."""

    def __init__(self, clock, factor):
        self.clock, self.factor, self.warm = clock, factor, False
        self.threads = set()

    def transcribe(self, waveforms):
        self.threads.add(torch.get_num_threads())
        seconds = sum(len(waveform) for waveform in waveforms) / 16_000
        self.clock.now += seconds * self.factor * (1 if self.warm else 2)
        self.warm = True
        return [""] * len(waveforms)


class Streaming(Slow):
    """Streams too, at twice the cost."""

    context = (8, 64)

    def stream(self):
        return self

    def accept(self, samples):
        assert len(samples) <= 1_600
        self.clock.now += 2 * self.factor * len(samples) / 16_000

    def final(self):
        return ""


WAVEFORMS = [torch.zeros(16_000), torch.zeros(32_000), torch.zeros(40_000)]


def test_factors_are_per_second_of_audio_and_leave_the_first_call_out():
    clock = Clock()
    teacher, student = Slow(clock, 0.5), Streaming(clock, 0.01)
    systems = [System("t", "teacher", teacher, parameters=12), System("s", "student_kd", student, device="cuda:0")]
    costs = measure_costs(systems, WAVEFORMS, clock=clock)
    assert costs["teacher"].real_time_factor == pytest.approx(0.5)
    assert costs["teacher"].streaming_real_time_factor is None
    assert (costs["teacher"].parameters, costs["teacher"].size_bytes, costs["teacher"].rtf_utterances) == (12, None, 3)
    assert costs["student_kd"].real_time_factor == pytest.approx(0.01)
    assert costs["student_kd"].streaming_real_time_factor == pytest.approx(0.02)
    assert costs["student_kd"].device == "cuda:0"


def test_timing_runs_on_one_thread_and_restores_the_number():
    clock = Clock()
    recognizer = Slow(clock, 1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        measure_costs([System("t", "teacher", recognizer)], WAVEFORMS, clock=clock)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert recognizer.threads == {1}


def test_the_median_ignores_one_disturbed_utterance():
    clock = Clock()
    seconds = iter([0, 1, 90, 1])  # the first is the warm-up

    def job(waveform):
        clock.now += next(seconds)

    assert real_time_factors({"job": job}, [torch.zeros(16_000)] * 3, clock=clock) == {"job": pytest.approx(1.0)}


def test_no_waveforms_measure_nothing():
    cost = measure_costs([System("t", "teacher", Slow(Clock(), 1.0))], [])["teacher"]
    assert (cost.real_time_factor, cost.rtf_utterances) == (None, 0)


def test_bytes_of_a_file_and_of_the_weights_in_a_folder(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(EvaluationError, match="holds no weights"):
        weights_bytes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 321)
    assert weights_bytes(tmp_path) == weights_bytes(tmp_path / "model.safetensors") == 321
    with pytest.raises(EvaluationError, match="no such file"):
        weights_bytes(tmp_path / "other.onnx")
