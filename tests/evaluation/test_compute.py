"""Multiplications and bytes that can be counted by hand."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from asr_kd.evaluation.cost_measures import arithmetic, count_macs, int8_size, quantised_bytes
from asr_kd.evaluation.open_systems import open_system, open_teacher_system
from asr_kd.evaluation.system import System
from asr_kd.models.subsampling import feature_frames_for
from tests.helpers.spelled import SpellingTeacher
from tests.helpers.tiny_models import CHUNK_FRAMES, LEFT_CONTEXT_FRAMES, VOCABULARY, noise_speech, save_tiny_model


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
    assert found.macs_per_second == pytest.approx(by_hand(CHUNK_FRAMES, LEFT_CONTEXT_FRAMES) / 0.16)
    assert found.of == "one chunk of 160 ms with its left context"
    assert arithmetic(system, noise_speech(1.0)) == found


def test_a_full_context_model_costs_more_the_longer_it_hears(tmp_path):
    system = open_system("t", "teacher", save_tiny_model(tmp_path / "model", streaming=False))
    short, long = arithmetic(system, noise_speech(2.0)), arithmetic(system, noise_speech(20.0))
    assert long.macs_per_second > 1.2 * short.macs_per_second
    assert short.of == "an utterance of 2 s"
    assert arithmetic(system, None).of.startswith("not counted: no utterance is timed")


def test_what_torch_does_not_run_is_not_counted():
    found = arithmetic(System("x", "other", object()), None)
    assert (found.macs_per_second, found.of) == (None, "not counted: it does not run in torch")
    teacher = open_teacher_system("spelling", SpellingTeacher({}))
    assert arithmetic(teacher, noise_speech(1.0)).macs_per_second == 0  # it computes nothing


def test_bytes_of_eight_bits():
    assert quantised_bytes([torch.zeros(20, 10), torch.zeros(20)]) == 200 + 20 * 4 + 20 * 4
    assert quantised_bytes([torch.zeros(6, 1, 3, 3)]) == 54 + 6 * 4


def test_a_file_is_taken_before_an_estimate(tmp_path):
    folder = save_tiny_model(tmp_path / "model")
    system = open_system("s", "student_kd", folder)
    estimate = int8_size(system)
    float_bytes = (folder / "model.safetensors").stat().st_size
    assert float_bytes / 4 < estimate.size_bytes < float_bytes / 2
    assert estimate.of.startswith("estimate: ")
    (folder / "model.int8.onnx").write_bytes(b"x" * 77)
    assert int8_size(system) == (77, "file model.int8.onnx")
    assert int8_size(System("x", "other", object(), parameters=12)) == (12, "estimate: a byte for each parameter")
    assert int8_size(System("x", "other", object())).size_bytes is None
