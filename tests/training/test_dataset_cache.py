"""Memory for features and layers: nothing is made twice while there is room, and nothing is wrong without it."""

import torch

from asr_kd.models.weights import save_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from asr_kd.training.batch_sampler import SampledUtterance
from asr_kd.training.dataset import MemoryCache, SpeechDataset
from tests.helpers.tiny_models import VOCABULARY, tiny_model


def test_what_fits_is_made_once():
    cache, made = MemoryCache(1), []

    def make(name: str, numbers: int):
        def compute():
            made.append(name)
            return torch.zeros(numbers), name

        return compute

    for _ in range(3):
        assert cache.get("a", make("a", 200_000))[1] == "a"  # 0.8 MB
        assert cache.get("b", make("b", 100_000))[1] == "b"  # does not fit beside it
        assert cache.get("c", make("c", 50_000))[1] == "c"  # does
    assert made == ["a", "b", "c", "b", "b"]


def test_targets_are_read_once_where_there_is_room(utterances, tmp_path, monkeypatch):
    save_model(tmp_path / "teacher", tiny_model(streaming=False), VOCABULARY, {})
    extract(LocalTeacher(tmp_path / "teacher"), utterances, TargetSettings(speeds=(0.9, 1.0)), tmp_path / "targets")
    store, read = Store.open(tmp_path / "targets"), []
    original = store.read

    def counted(utterance_id, variant, num_frames):
        read.append((utterance_id, variant))
        return original(utterance_id, variant, num_frames)

    monkeypatch.setattr(store, "read", counted)
    draws = [SampledUtterance(row, speed, 0) for row in range(5) for speed in (0.9, 1.0)]
    for megabytes, expected in ((100, 10), (0, 20)):
        dataset = SpeechDataset(utterances, [[1]] * 12, 0.0, megabytes, store)
        read.clear()
        for draw in [*draws, *draws]:
            found = dataset[draw].targets
            alone = original(utterances[draw.row].id, f"speed-{draw.speed}")
            assert all(one.equal(other) for one, other in zip(found[:2], alone[:2], strict=True))
        assert len(read) == expected


def test_layers_are_read_once_where_there_is_room_and_targets_are_those_of_the_store(utterances, tmp_path, monkeypatch):
    save_model(tmp_path / "teacher", tiny_model(streaming=False), VOCABULARY, {})
    settings = TargetSettings(speeds=(0.9, 1.0), layers=(1,))
    extract(LocalTeacher(tmp_path / "teacher"), utterances, settings, tmp_path / "targets")
    store = Store.open(tmp_path / "targets")
    reads, read_array = [], store.read_array

    def counted(*arguments):
        reads.append(arguments)
        return read_array(*arguments)

    monkeypatch.setattr(store, "read_array", counted)
    draws = [SampledUtterance(row, speed, 0) for row in range(3) for speed in (0.9, 1.0)]
    for megabytes, expected in ((100, len(draws)), (0, 2 * len(draws))):
        dataset = SpeechDataset(utterances, [[1]] * 12, 0.0, megabytes, store, arrays=["layer-1"])
        reads.clear()
        for draw in [*draws, *draws]:
            found, name = dataset[draw], (utterances[draw.row].id, f"speed-{draw.speed}")
            assert all(one.equal(other) for one, other in zip(found.targets[:2], store.read(*name)[:2], strict=True))
            assert found.arrays["layer-1"].equal(torch.from_numpy(read_array("layer-1", *name)))
        assert len(reads) == expected
