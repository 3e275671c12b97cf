"""Several workers without communication: each makes its share, the last one completes the store."""

import json
import os
import signal
from collections.abc import Iterable
from itertools import pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.files import json_text
from asr_kd.targets import Store, TargetSettings, extract, shard_manifest
from asr_kd.targets.s3_storage import RemoteStorage
from asr_kd.targets.shard_manifest import QUARANTINE, done_shards
from asr_kd.targets.sharding import Share, plan_shards, slurm_share
from tests.helpers.fake_teacher import FakeTeacher
from tests.helpers.noise import write_corpus
from tests.helpers.processes import SERVER


def work(audio: Path, folder: str, settings: TargetSettings, share: str, kill_at_call: int) -> None:
    """What a worker does; killed in the middle of a shard at such a call of its teacher."""
    teacher = FakeTeacher()
    teacher.before_call = lambda calls: calls == kill_at_call and os.kill(os.getpid(), signal.SIGKILL)
    extract(teacher, write_corpus(audio), settings, folder, Share.parse(share))


def start(corpus, folder: str, settings: TargetSettings, share: str, kill_at_call: int = -1) -> BaseProcess:
    process = SERVER.Process(target=work, args=(corpus[0].audio.parent, folder, settings, share, kill_at_call))
    process.start()
    return process


def exit_codes(processes: Iterable[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(240)
    return [process.exitcode for process in processes]


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"shard_seconds": 2.0, "batch_seconds": 0.8})


@pytest.fixture
def reference(tmp_path, corpus, settings, shard_files):
    """The shards of one process."""
    extract(FakeTeacher(), corpus, settings, tmp_path / "reference")
    return shard_files(tmp_path / "reference")


@pytest.mark.parametrize("url", ["{}", "file://{}"])
def test_three_workers_one_of_them_killed_make_the_bytes_of_one(
    tmp_path, corpus, settings, reference, shard_files, url
):
    folder = tmp_path / "shared"
    place = url.format(folder)
    workers = [start(corpus, place, settings, f"{part}/3", kill_at_call=3 if part == 2 else -1) for part in (1, 2, 3)]
    assert exit_codes(workers) == [0, -signal.SIGKILL, 0]
    before = shard_files(folder)
    assert 0 < len(before) < len(reference)
    assert not Store.open(place, partial=True).info.complete
    with pytest.raises(TargetsError, match=f"unfinished: {len(before)} of {len(reference)} shards"):
        Store.open(place)

    assert exit_codes([start(corpus, place, settings, "2/3")]) == [0]
    assert shard_files(folder) == reference
    assert list(Store.open(place).ids()) == sorted(utterance.id for utterance in corpus)
    index = [json.loads((path / "store.json").read_text()) for path in (folder, tmp_path / "reference")]
    assert index[0] == index[1]
    assert not [path for path in folder.iterdir() if "partial" in path.name or path.suffix == ".lock"]


def test_each_worker_reports_what_is_done_by_all(tmp_path, corpus, settings, reference):
    folder, seen = tmp_path / "s", []
    first = extract(FakeTeacher(), corpus, settings, folder, Share(0, 2))
    assert (first.complete, first.fidelity, first.busy, str(first.share)) == (False, None, (), "1/2")
    assert len(first.info.shards) == first.made == done_shards(folder) == -(-len(reference) // 2)
    assert first.info.planned_shards == len(reference)
    assert first.share_line() == (
        f"share 1/2: {first.made} shards made, 0 already complete; {first.made} of {len(reference)} done by all workers"
    )
    second = extract(
        FakeTeacher(), corpus, settings, folder, Share(1, 2), progress=lambda done, total: seen.append((done, total))
    )
    assert (second.complete, len(second.info.shards), second.made) == (True, len(reference), len(reference) // 2)
    assert second.fidelity is not None
    total = sum(utterance.duration * (1 + 1 / 0.9) for utterance in corpus)
    assert 0.3 * total < seen[0][0] < 0.7 * total, "the first worker's part counts from the start"
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == pytest.approx((total, total))


def test_what_others_finish_meanwhile_counts_and_their_quarantine_too(tmp_path, corpus, settings, monkeypatch):
    monkeypatch.setattr(shard_manifest, "LOOK_SECONDS", 0.0)
    folder, seen = tmp_path / "s", []
    bad = sorted(corpus, key=lambda utterance: utterance.id)[0]  # in the first shard
    bad.audio.unlink()
    settings = settings.model_copy(update={"max_quarantine_share": 0.2})
    teacher = FakeTeacher()
    teacher.before_call = lambda calls: calls == 1 and extract(FakeTeacher(), corpus, settings, folder, Share(0, 2))
    report = extract(teacher, corpus, settings, folder, Share(1, 2), progress=lambda done, _: seen.append(done))
    assert seen[0] == 0
    assert max(after - before for before, after in pairwise(seen)) > 0.5 * seen[-1], "half of it at once"
    assert report.complete
    assert [entry.id for entry in report.quarantine] == [bad.id]
    listed = (folder / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in listed] == [bad.id]


def test_unusable_utterances_of_all_workers_together_are_too_many(tmp_path, corpus, settings):
    first, second = (shard.utterances[0] for shard in plan_shards(corpus, settings)[:2])
    for utterance in (first, second):
        utterance.audio.unlink()
    folder = tmp_path / "s"
    extract(FakeTeacher(), corpus, settings, folder, Share(0, 2))  # one of nine is allowed, rounded up
    with pytest.raises(TargetsError, match="2 of 9 utterances cannot be used"):
        extract(FakeTeacher(), corpus, settings, folder, Share(1, 2))


def test_a_slow_writer_cannot_leave_an_old_index(tmp_path, corpus, settings, reference, monkeypatch):
    """Without locks: worker 1 has looked at the marks when worker 2 finishes the store, and writes after it."""
    folder = tmp_path / "s"
    url = f"file://{folder}"
    write, late = RemoteStorage.write, []

    def write_late(self, name: str, content: bytes) -> None:
        own = -(-len(reference) // 2)
        if name == QUARANTINE and not late and done_shards(url) == own:  # its own are all done: the last gathering
            late.append(None)
            late[0] = extract(FakeTeacher(), corpus, settings, url, Share(1, 2))
        write(self, name, content)

    monkeypatch.setattr(RemoteStorage, "write", write_late)
    report = extract(FakeTeacher(), corpus, settings, url, Share(0, 2))
    assert late[0].complete
    assert report.complete
    assert Store.open(folder).info.complete


def test_a_worker_killed_before_the_index_is_completed_by_the_next(tmp_path, corpus, settings, reference):
    folder = tmp_path / "reference"
    index = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json_text(index | {"shards": index["shards"][:1]}))
    report = extract(FakeTeacher(), corpus, settings, folder, Share(len(reference), len(reference) + 1))
    assert (report.made, report.skipped, report.complete) == (0, 0, True)
    assert json.loads((folder / "store.json").read_text()) == index


def test_a_stopped_worker_leaves_what_it_made_readable(tmp_path, corpus, settings):
    folder, teacher = tmp_path / "s", FakeTeacher()
    with pytest.raises(StoppedEarly):
        extract(teacher, corpus, settings, folder, Share(0, 2), should_stop=lambda: done_shards(folder) >= 1)
    assert len(Store.open(folder, partial=True).info.shards) == 1


@given(count=st.integers(1, 40), shards=st.integers(0, 200), parts=st.integers(1, 5))
def test_shares_cover_every_shard_once(count, shards, parts):
    shares = [Share(index, count).split(part, parts) for index in range(count) for part in range(parts)]
    for shard in range(shards):
        assert sum(shard in share for share in shares) == 1
    for index in range(count):  # parts of a share lie inside it
        inside = {shard for shard in range(shards) if shard in Share(index, count)}
        assert inside == {
            shard for shard in range(shards) for part in range(parts) if shard in Share(index, count).split(part, parts)
        }


def test_a_share_is_read_as_people_write_it():
    assert Share.parse("2/8") == Share(1, 8)
    assert Share.parse(str(Share(7, 8))) == Share(7, 8)
    for wrong in ("0/8", "9/8", "2", "a/b", "1/0", "-1/8", ""):
        with pytest.raises(TargetsError, match="from 1/8 to 8/8"):
            Share.parse(wrong)
    with pytest.raises(ValueError, match="share 8 of 8"):
        Share(8, 8)


def slurm(**values: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name.upper()}": str(value) for name, value in values.items()}


def test_a_slurm_array_is_cut_into_shares():
    assert slurm_share({}) == Share(0, 1)
    assert slurm_share(slurm(id=0, count=8, min=0, max=7, step=1)) == Share(0, 8)
    assert slurm_share(slurm(id=8, count=8, min=1, max=8, step=1)) == Share(7, 8)
    assert slurm_share(slurm(id=14, count=8, min=0, max=14, step=2)) == Share(7, 8)
    assert slurm_share(slurm(id=3, count=1, min=3, max=3, step=1)) == Share(0, 1), "one task again takes what is left"


@pytest.mark.parametrize(
    "values",
    [
        {"id": 3, "count": 3, "min": 0, "max": 4, "step": 1},  # --array=0,3,4
        {"id": 0, "count": 3, "min": 0, "max": 4, "step": 1},  # another task of the same
        {"id": 1},
        {"id": 9, "count": 8, "min": 0, "max": 7, "step": 1},
        {"id": 1, "count": 2, "min": 0, "max": 1, "step": 0},
    ],
)
def test_a_slurm_array_with_gaps_is_refused(values):
    with pytest.raises(TargetsError, match=r"--array=0-7.*--share 2/8"):
        slurm_share(slurm(**values))
