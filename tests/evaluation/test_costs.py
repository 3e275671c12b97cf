"""Costs of known systems: a clock and counters made here, multiplications and bytes counted by hand."""

import io
import json

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from asr_kd.decoding.settings import DecodingSettings
from asr_kd.errors import EvaluationError
from asr_kd.evaluation import cost_measures
from asr_kd.evaluation import cost_report as cost_report_module
from asr_kd.evaluation.cost_measures import (
    arithmetic,
    count_macs,
    counters,
    how_to_open,
    int8_size,
    measure_energy,
    measure_memory,
    quantised_bytes,
)
from asr_kd.evaluation.cost_report import (
    chunk_milliseconds,
    cost_report,
    real_time_factors,
    weights_bytes,
)
from asr_kd.evaluation.open_systems import open_system, open_teacher_system
from asr_kd.evaluation.system import System, whole
from asr_kd.models.layers import feature_frames_for
from asr_kd.models.settings import Context
from tests.helpers.spelled import SpellingTeacher
from tests.helpers.tiny_models import CHUNK_FRAMES, LEFT_CONTEXT_FRAMES, VOCABULARY, noise_speech, save_tiny_model


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


def test_factors_are_per_second_of_audio_and_leave_the_first_call_out(monkeypatch):
    clock = Clock()
    teacher, student = Slow(clock, 0.5), Streaming(clock, 0.01)
    systems = [System("t", "teacher", teacher, parameters=12), System("s", "student_kd", student, device="cuda:0")]
    monkeypatch.setattr(cost_report_module, "chunk_milliseconds", lambda recognizer, waveforms: [])
    costs = cost_report(systems, WAVEFORMS, memory=False, clock=clock)
    teacher, student = costs["teacher"], costs["student_kd"]
    assert teacher["rtf"] == {"whole": pytest.approx(0.5), "streamed": None}
    assert (teacher["parameters"], teacher["size_bytes"]["fp32"], teacher["rtf_utterances"]) == (12, None, 3)
    assert student["rtf"] == {"whole": pytest.approx(0.01), "streamed": pytest.approx(0.02)}
    assert student["energy_reason"] == "not readable here for cuda:0"


def test_timing_runs_on_one_thread_and_restores_the_number():
    clock = Clock()
    recognizer = Slow(clock, 1.0)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        real_time_factors({"t": whole(recognizer)}, WAVEFORMS, clock=clock)
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


def test_bytes_of_a_file_and_of_the_weights_in_a_folder(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(EvaluationError, match="holds no weights"):
        weights_bytes(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 321)
    assert weights_bytes(tmp_path) == weights_bytes(tmp_path / "model.safetensors") == 321
    with pytest.raises(EvaluationError, match="no such file"):
        weights_bytes(tmp_path / "other.onnx")


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

    assert [path.name for path in counters(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    assert measure_energy(job, tmp_path) == (pytest.approx(3.0 + 0.002), None)


def test_without_counters_nothing_runs_and_the_reason_is_given(tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()  # one that may not be read
    found = measure_energy(lambda: pytest.fail("it ran"), tmp_path)
    assert found.value is None
    assert found.note.startswith("not readable here: no energy counter")


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


def test_a_model_is_opened_in_a_process_of_its_own(tmp_path, monkeypatch):
    """Which ignores a module in the working folder."""
    (tmp_path / "torch.py").write_text("raise SystemExit('the module of the working folder ran')")
    monkeypatch.chdir(tmp_path)
    system = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    found = measure_memory(system, [8_000])
    assert found["rss_reason"] is None
    assert found["rss_bytes"] > found["rss_before_bytes"] > 20_000_000


def test_what_cannot_be_opened_again_has_a_reason(tmp_path, monkeypatch):
    assert measure_memory(System("x", "other", object()), [1])["rss_reason"].startswith(
        "not measured: it cannot be opened"
    )
    system = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    assert how_to_open(system) == {"folder": str(tmp_path / "model"), "decoding": {}}
    monkeypatch.setattr(cost_measures.sys, "executable", "/no/such/python")
    assert "its own process failed" in measure_memory(system, [1])["rss_reason"]
    monkeypatch.setattr(cost_measures, "STATUS", tmp_path / "none")
    assert measure_memory(system, [1])["rss_reason"] == "not readable here: no /proc/self/status"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("torchaudio:X", {"source": "torchaudio:X", "precision": "bf16", "decoding": {}}),
        ("recipe:x", None),
        ([{"source": "x"}], None),
    ],
)
def test_a_teacher_from_elsewhere_is_opened_by_its_source(source, expected):
    details = {"source": source, "precision": "bf16"}
    assert how_to_open(open_teacher_system("t", SpellingTeacher({}), details=details)) == expected


def test_memory_is_that_of_the_decoding_that_is_evaluated(tmp_path, monkeypatch, capsys):
    (tmp_path / "words.txt").write_text("A\nB\n")
    decoding = DecodingSettings(kind="beam", lexicon=tmp_path / "words.txt", hotwords=("A B",))
    system = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"), decoding=decoding)
    opened = []
    monkeypatch.setattr(
        cost_measures, "open_recognizer", lambda folder, **options: opened.append(options) or system.recognizer
    )
    task = json.dumps({"open": how_to_open(system), "num_samples": [1_600]})
    monkeypatch.setattr(cost_measures.sys, "stdin", io.StringIO(task))
    monkeypatch.setattr(cost_measures.torch, "set_num_threads", lambda number: None)
    cost_measures.main()
    assert opened == [{"decoding": decoding}]
    assert json.loads(capsys.readouterr().out)["rss_bytes"] > 0


def test_all_costs_stand_together_with_their_reasons(tmp_path, monkeypatch):
    stored = {"rss_bytes": 3_000, "rss_before_bytes": 1_000, "rss_reason": None}
    monkeypatch.setattr(cost_report_module, "measure_memory", lambda system, samples: stored)
    student = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    teacher = open_teacher_system("t", SpellingTeacher({}))
    waveforms = [noise_speech(0.6)]
    found = cost_report([teacher, student], waveforms, memory=True)
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
    nothing = cost_report([student], [], memory=False)["student_kd"]
    assert (nothing["rss_reason"], nothing["chunk_ms"]) == ("not measured: evaluate.memory is off", None)
    assert nothing["energy_reason"] == "no utterance is timed (evaluate.rtf_utterances)"


def test_a_linear_layer_and_a_depthwise_convolution():
    linear, depthwise = torch.nn.Linear(10, 20), torch.nn.Conv1d(8, 8, 3, groups=8)
    assert count_macs(lambda: linear(torch.zeros(3, 10))) == 3 * 10 * 20
    assert count_macs(lambda: depthwise(torch.zeros(1, 8, 20))) == 18 * 8 * 3
    with torch.inference_mode():
        assert count_macs(lambda: linear(torch.zeros(7, 10)).softmax(-1)) == 7 * 10 * 20


def test_fused_attention_is_counted():
    frames, width, heads = 50, 32, 4
    query = torch.zeros(1, heads, frames, width // heads)
    products = 2 * frames * frames * width
    with torch.inference_mode():
        assert count_macs(lambda: scaled_dot_product_attention(query, query, query)) == products
        layer = torch.nn.TransformerEncoderLayer(width, heads, 64, batch_first=True).eval()
        linear = 4 * frames * width * width + 2 * frames * width * 64
        assert count_macs(lambda: layer(torch.zeros(1, frames, width))) == linear + products
    assert torch.backends.mha.get_fastpath_enabled()


def by_hand(chunk, left, width=32, layers=2, inner=32, kernel=5, channels=4, bins=80):
    """MACs of one chunk of the tiny model, layer by layer."""
    frames = feature_frames_for(chunk)
    rows, columns = (frames - 1) // 2, (bins - 1) // 2
    first = rows * columns * channels * 9
    second_rows, second_columns = (rows - 1) // 2, (columns - 1) // 2
    second = second_rows * second_columns * channels * channels * 9
    project = chunk * channels * second_columns * width
    feed_forward = 2 * 2 * chunk * width * inner
    attention = 4 * chunk * width * width + 2 * chunk * (left + chunk) * width
    convolution = chunk * width * 2 * width + chunk * width * kernel + chunk * width * width
    return first + second + project + layers * (feed_forward + attention + convolution) + chunk * width * 13


def test_a_streaming_model_costs_what_its_chunks_cost(tmp_path):
    system = open_system("s", "student_kd", save_tiny_model(tmp_path / "model"))
    found = arithmetic(system, None)
    assert len(VOCABULARY) == 13
    assert found.value == pytest.approx(by_hand(CHUNK_FRAMES, LEFT_CONTEXT_FRAMES) / 0.16)
    assert found.note == "one chunk of 160 ms with its left context"
    assert arithmetic(system, noise_speech(1.0)) == found


def test_a_full_context_model_costs_more_on_longer_audio(tmp_path):
    system = open_system("t", "teacher", save_tiny_model(tmp_path / "model", streaming=False))
    short, long = arithmetic(system, noise_speech(2.0)), arithmetic(system, noise_speech(20.0))
    assert long.value > 1.2 * short.value
    assert short.note == "an utterance of 2 s"
    assert arithmetic(system, None).note.startswith("not counted: no utterance is timed")


def test_what_torch_does_not_run_is_not_counted():
    found = arithmetic(System("x", "other", object()), None)
    assert (found.value, found.note) == (None, "not counted: it does not run in torch")
    teacher = open_teacher_system("spelling", SpellingTeacher({}))
    assert arithmetic(teacher, noise_speech(1.0)).value == 0  # it computes nothing


def test_bytes_of_eight_bits():
    assert quantised_bytes([torch.zeros(20, 10), torch.zeros(20)]) == 200 + 20 * 4 + 20 * 4
    assert quantised_bytes([torch.zeros(6, 1, 3, 3)]) == 54 + 6 * 4


def test_a_file_is_taken_before_an_estimate(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    system = open_system("s", "student_kd", folder)
    estimate = int8_size(system)
    float_bytes = (folder / "model.safetensors").stat().st_size
    assert float_bytes / 4 < estimate.value < float_bytes / 2
    assert estimate.note.startswith("estimate: ")
    (folder / "model.int8.onnx").write_bytes(b"x" * 77)
    assert int8_size(system) == (77, "file model.int8.onnx")
    assert int8_size(System("x", "other", object(), parameters=12)) == (12, "estimate: a byte for each parameter")
    assert int8_size(System("x", "other", object())).value is None
