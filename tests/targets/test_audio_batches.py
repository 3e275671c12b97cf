"""Reading ahead: equal results in the same order for any number of threads, errors, bounded look-ahead."""

import threading

import pytest
import torch

from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import StoppedEarly
from asr_kd.features.augment import speed_perturb
from asr_kd.targets import extract, sharded_extraction
from asr_kd.targets.settings import Variant
from asr_kd.targets.sharded_extraction import BATCHES_AHEAD, plan_batches, read_batches
from tests.helpers.fake_teacher import FakeTeacher


@pytest.mark.parametrize("readers", [0, 1, 5])
def test_batches_come_in_order_with_every_speed(corpus, readers):
    batches = plan_batches(corpus, 1.0)
    assert len(batches) > BATCHES_AHEAD + 1
    read = list(read_batches(batches, [Variant(1.0), Variant(0.9)], readers))
    assert [[item.utterance for item in batch] for batch in read] == batches
    for item in (item for batch in read for item in batch):
        whole = read_utterance(item.utterance)
        for waveform, speed in zip(item.waveforms, (1.0, 0.9), strict=True):
            assert torch.equal(waveform, speed_perturb(whole, speed))


def test_the_bytes_of_a_store_do_not_depend_on_the_readers(tmp_path, corpus, settings, shard_files):
    corpus[3].audio.write_bytes(corpus[3].audio.read_bytes()[:-2000])
    made, left_out = [], []
    for readers in (0, 1, 4):
        changed = settings.model_copy(update={"readers": readers, "max_quarantine_share": 0.2})
        report = extract(FakeTeacher(), corpus, changed, tmp_path / str(readers))
        made.append(shard_files(tmp_path / str(readers)))
        left_out.append(report.quarantine)
    assert len(made[0]) > 2
    assert made[0] == made[1] == made[2]
    assert [entry.id for entry in left_out[0]] == [corpus[3].id]
    assert left_out[0] == left_out[1] == left_out[2]


def test_what_cannot_be_read_travels_with_the_reason(corpus):
    corpus[0].audio.unlink()
    (items,) = read_batches([corpus[:2]], [Variant(1.0)], 2)
    assert items[0].waveforms == ()
    assert "no such file" in items[0].problem
    assert items[1].problem is None


@pytest.mark.parametrize("readers", [0, 2])
def test_a_reader_that_breaks_is_an_error(tmp_path, corpus, settings, readers, monkeypatch):
    monkeypatch.setattr(sharded_extraction, "read_utterance", lambda utterance: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(FakeTeacher(), corpus, settings.model_copy(update={"readers": readers}), tmp_path / "s")


def test_only_so_many_batches_are_read_ahead(corpus, monkeypatch):
    begun: list[str] = []

    def read(utterance):
        begun.append(utterance.id)
        return read_utterance(utterance)

    monkeypatch.setattr(sharded_extraction, "read_utterance", read)
    batches = [[utterance] for utterance in corpus]
    most = 0
    for done, _ in enumerate(read_batches(batches, [Variant(1.0)], 4), start=1):
        most = max(most, len(begun) - done)
    assert 0 < most <= BATCHES_AHEAD
    assert len(begun) == len(corpus)


def test_who_stops_leaves_no_reader_behind(tmp_path, corpus, settings):
    teacher = FakeTeacher()
    with pytest.raises(StoppedEarly):
        extract(teacher, corpus, settings, tmp_path / "s", should_stop=lambda: teacher.calls >= 2)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reader")]
