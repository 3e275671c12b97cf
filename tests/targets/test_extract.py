"""Extraction: resumable, parallel without communication, errors of audio and of writing."""

import json
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import StoppedEarly, TargetsError
from asr_kd.files import json_text, read_json, write_json
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.local_storage import LocalStorage
from asr_kd.targets.sharded_extraction import plan_batches
from asr_kd.targets.sharding import plan_shards
from tests.helpers.fake_teacher import FakeTeacher


@pytest.fixture
def reference(tmp_path, teacher, corpus, settings, shard_files):
    """The shards of an extraction that nothing interrupted."""
    extract(teacher, corpus, settings, tmp_path / "reference")
    return shard_files(tmp_path / "reference")


def run_in_process(folder: Path, corpus: list[Utterance], before_call: str, preamble: str = "") -> subprocess.Popen:
    """`extract` in a process of its own, with `before_call` run before each call of the teacher."""
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.helpers.noise import write_corpus
from tests.helpers.fake_teacher import FakeTeacher
from asr_kd.targets import TargetSettings, extract
{preamble}
def before_call(calls):
    {before_call}
teacher = FakeTeacher()
teacher.before_call = before_call
settings = TargetSettings(speeds=(1.0, 0.9), shard_seconds=4.0, batch_seconds=2.0, fidelity_utterances=3)
extract(teacher, write_corpus(Path({str(corpus[0].audio.parent)!r})), settings, Path({str(folder)!r}))
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-P", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_reports_what_there_is(tmp_path, teacher, corpus, settings):
    seen: list[tuple[float, float]] = []
    report = extract(teacher, corpus, settings, tmp_path / "s", progress=lambda done, total: seen.append((done, total)))
    total = sum(utterance.duration * (1 + 1 / 0.9) for utterance in corpus)
    assert report.complete
    assert (report.made, report.skipped) == (len(list((tmp_path / "s").glob("*.safetensors"))), 0)
    assert seen[-1] == pytest.approx((total, total))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    fidelity = report.fidelity
    assert fidelity is not None
    assert read_json(tmp_path / "s" / "fidelity.json") == fidelity.model_dump()
    assert fidelity.argmax_agreement == 1.0
    assert 0 < fidelity.kl < 0.01
    assert 0 < fidelity.tail_divergence < 0.05
    assert 0.3 < fidelity.certain_share <= fidelity.blank_share + 0.1
    assert fidelity.entries_per_frame > 1
    assert fidelity.sampled_utterances == 3


def test_a_second_run_makes_nothing(tmp_path, corpus, settings, reference, shard_files):
    teacher = FakeTeacher()
    report = extract(teacher, corpus, settings, tmp_path / "reference")
    assert (report.made, report.skipped, teacher.calls) == (0, len(reference), 0)
    assert shard_files(tmp_path / "reference") == reference


def test_the_order_of_the_manifest_means_nothing(tmp_path, teacher, corpus, settings, reference, shard_files):
    extract(teacher, corpus[::-1], settings, tmp_path / "reversed")
    assert shard_files(tmp_path / "reversed") == reference


def test_a_damaged_shard_is_made_again_with_the_same_bytes(tmp_path, teacher, corpus, settings, reference, shard_files):
    folder = tmp_path / "reference"
    (folder / "shard-00001.safetensors").write_bytes(b"damage")
    report = extract(teacher, corpus, settings, folder)
    assert (report.made, report.skipped) == (1, len(reference) - 1)
    assert shard_files(folder) == reference


def test_a_store_is_not_complete_while_another_worker_makes_a_damaged_shard_again(
    tmp_path, teacher, corpus, settings, reference, shard_files
):
    folder, other = tmp_path / "reference", LocalStorage(tmp_path / "reference")
    (folder / "shard-00001.safetensors").write_bytes(b"damage")
    assert other.acquire("shard-00001") is None
    report = extract(teacher, corpus, settings, folder)
    assert (report.complete, report.made, len(report.busy)) == (False, 0, 1)
    assert report.fidelity is None
    with pytest.raises(TargetsError, match="unfinished"):
        Store.open(folder)
    other.release("shard-00001")
    assert extract(teacher, corpus, settings, folder).complete
    assert shard_files(folder) == reference
    assert Store.open(folder).info.complete


def test_a_damaged_shard_that_another_worker_made_again_meanwhile_counts(
    tmp_path, corpus, settings, reference, shard_files, monkeypatch
):
    folder = tmp_path / "reference"
    (folder / "shard-00000.safetensors").write_bytes(b"damage")
    (folder / "shard-00001.safetensors").write_bytes(b"damage")
    other = LocalStorage(folder)
    other.acquire("shard-00000")
    teacher = FakeTeacher()

    def finish_the_other(calls: int) -> None:
        if calls == 0:
            (folder / "shard-00000.safetensors").write_bytes(reference["shard-00000.safetensors"])
            other.release("shard-00000")

    teacher.before_call = finish_the_other  # while this worker makes the second shard
    report = extract(teacher, corpus, settings, folder)
    assert (report.complete, report.made, len(report.busy)) == (True, 1, 1)
    assert report.fidelity is not None
    assert shard_files(folder) == reference


def test_a_report_of_other_shards_is_measured_again(tmp_path, corpus, settings, reference):
    folder = tmp_path / "reference"
    fidelity = read_json(folder / "fidelity.json")
    write_json(folder / "fidelity.json", fidelity | {"bytes_per_frame": 99.0, "kl": 9.0})
    report = extract(FakeTeacher(), corpus, settings, folder)
    assert report.fidelity.model_dump() == read_json(folder / "fidelity.json") == fidelity


def test_two_utterances_with_one_id_are_refused(tmp_path, teacher, corpus, settings):
    twice = replace(corpus[0], id=corpus[1].id)
    with pytest.raises(TargetsError, match=r"two utterances have the id 'u05'.*noise-.*noise-"):
        extract(teacher, [twice, *corpus[1:]], settings, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_killed_in_the_middle_of_a_shard_only_that_one_is_made_again(
    tmp_path, teacher, corpus, settings, reference, shard_files
):
    folder = tmp_path / "killed"
    process = run_in_process(folder, corpus, "if calls == 5: os.kill(os.getpid(), signal.SIGKILL)")
    process.communicate(timeout=600)
    assert process.returncode == -9
    before = shard_files(folder)
    assert 0 < len(before) < len(reference)
    assert list(folder.glob("*.lock")), "the killed process must have left its lock"
    (folder / f".shard-{len(before):05d}.safetensors.1.partial").write_bytes(b"half a shard")
    assert Store.open(folder, partial=True).info.frames > 0

    report = extract(teacher, corpus, settings, folder)
    assert (report.complete, report.skipped) == (True, len(before))
    assert shard_files(folder) == reference
    assert not [path for path in folder.iterdir() if "partial" in path.name or path.suffix == ".lock"]


def test_stops_on_request_and_goes_on(tmp_path, corpus, settings, reference, shard_files):
    folder = tmp_path / "stopped"
    teacher = FakeTeacher()
    with pytest.raises(StoppedEarly, match="finished shards are kept"):
        extract(teacher, corpus, settings, folder, should_stop=lambda: teacher.calls >= 5)
    before = shard_files(folder)
    assert 0 < len(before) < len(reference)
    assert extract(teacher, corpus, settings, folder).skipped == len(before)
    assert shard_files(folder) == reference


def test_two_writers_share_the_work_and_one_wins_each_shard(
    tmp_path, teacher, corpus, settings, reference, shard_files
):
    folder = tmp_path / "shared"
    process = run_in_process(folder, corpus, "calls == 0 and (print('holding', flush=True), sys.stdin.read())")
    assert process.stdout.readline() == "holding\n"
    report = extract(teacher, corpus, settings, folder)
    assert (report.complete, report.made) == (False, len(reference) - 1)
    assert [busy.split(":")[0] for busy in report.busy] == ["shard-00000"]
    assert f"process {process.pid} on {socket.gethostname()}" in report.busy[0]
    assert "shard-00000.lock" in report.busy[0]
    process.communicate(timeout=600)
    assert process.returncode == 0
    assert shard_files(folder) == reference
    assert Store.open(folder).info.complete


def test_a_lock_that_nobody_holds_is_taken_over(tmp_path, teacher, corpus, settings):
    folder = tmp_path / "locks"
    folder.mkdir()
    (folder / "shard-00001.lock").write_text("process 1 on another-machine")
    assert extract(teacher, corpus, settings, folder).complete


def test_disk_full_keeps_what_was_finished(tmp_path, teacher, corpus, settings, reference, shard_files, monkeypatch):
    folder = tmp_path / "full"
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if "shard-00001" in path.name:
            write(path, content[:10])
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TargetsError, match=r"No space left on device.*finished shards are kept"):
        extract(teacher, corpus, settings, folder)
    monkeypatch.undo()
    assert list(shard_files(folder)) == ["shard-00000.safetensors"]
    store = Store.open(folder, partial=True)
    assert store.read(next(store.ids())).tokens.shape[0] > 0
    assert not list(folder.glob(".*.partial"))
    extract(teacher, corpus, settings, folder)
    assert shard_files(folder) == reference


def test_a_limit_on_file_size_is_a_clear_error(tmp_path, corpus):
    """The same through the operating system: no patched functions."""
    process = run_in_process(
        tmp_path / "limited",
        corpus,
        "resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))",
        preamble="import resource",
    )
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "TargetsError" in errors
    assert "File too large" in errors


def test_unusable_utterances_are_quarantined_with_the_reason(tmp_path, teacher, corpus, settings):
    bad = corpus[2]
    bad.audio.write_bytes(bad.audio.read_bytes()[:-2000])
    short = Utterance("u-short", tmp_path / "short.wav", 0.03, "a", "nobody")
    soundfile.write(short.audio, np.full(480, 0.1), 16_000)
    settings = settings.model_copy(update={"max_quarantine_share": 0.3})
    report = extract(teacher, [*corpus, short], settings, tmp_path / "s")
    reasons = {entry.id: entry.reason for entry in report.quarantine}
    assert set(reasons) == {bad.id, "u-short"}
    assert "cut off" in reasons[bad.id]
    assert "too short for the teacher" in reasons["u-short"]
    listed = [json.loads(line) for line in (tmp_path / "s" / "quarantine.jsonl").read_text().splitlines()]
    assert {row["id"]: (row["path"], row["reason"]) for row in listed} == {
        bad.id: (str(bad.audio), reasons[bad.id]),
        "u-short": (str(short.audio), reasons["u-short"]),
    }
    store = Store.open(tmp_path / "s")
    assert set(store.ids()) == {utterance.id for utterance in corpus} - {bad.id}


def test_posteriors_that_are_not_numbers_are_quarantined(tmp_path, corpus, settings):
    class Broken(FakeTeacher):
        def log_probs(self, waveforms, sample_lens):
            dense = super().log_probs(waveforms, sample_lens)
            dense.log_probs[(sample_lens == longest).nonzero().flatten(), 0, 0] = float("nan")
            return dense

    longest = max(round(utterance.duration * 16_000) for utterance in corpus)
    settings = settings.model_copy(update={"max_quarantine_share": 0.3})
    report = extract(Broken(), corpus, settings, tmp_path / "s")
    assert [entry.reason for entry in report.quarantine] == ["the teacher's posteriors are not finite at speed 1"]


def test_too_many_unusable_utterances_stop_it(tmp_path, teacher, corpus, settings):
    for utterance in corpus[:2]:
        utterance.audio.unlink()
    with pytest.raises(TargetsError, match=r"2 of 9 utterances cannot be used.*no such file.*at most 1"):
        extract(teacher, corpus, settings, tmp_path / "s")
    assert len((tmp_path / "s" / "quarantine.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("what", ["teacher", "vocabulary", "settings", "manifest", "version"])
def test_a_folder_of_something_else_is_refused_by_name(tmp_path, teacher, corpus, settings, reference, what):
    folder = tmp_path / "reference"
    given = {"teacher": teacher, "utterances": corpus, "settings": settings}
    if what == "teacher":
        given["teacher"], expected = FakeTeacher(sha256="b" * 64), r"differ in teacher.*aaaa.*bbbb"
    elif what == "vocabulary":
        given["teacher"], expected = FakeTeacher(letters="abc"), r"differ in vocabulary"
    elif what == "settings":
        given["settings"], expected = (
            settings.model_copy(update={"epsilon": 0.02}),
            r"epsilon \(0.005 there, 0.02 here\)",
        )
    elif what == "manifest":
        given["utterances"], expected = corpus[1:], r"differ in manifest_sha256"
    else:
        path = folder / "store.json"
        path.write_text(json_text(json.loads(path.read_text()) | {"version": 99}))
        expected = "format version 99"
    with pytest.raises(TargetsError, match=expected):
        extract(**given, folder=folder)


def test_no_utterances_is_an_error(tmp_path, teacher, settings):
    with pytest.raises(TargetsError, match="no utterances"):
        extract(teacher, [], settings, tmp_path / "s")


def test_the_plan_covers_everything_once(corpus):
    settings = TargetSettings(speeds=(0.9, 1.0, 1.1), shard_seconds=3.0)
    shards = plan_shards(corpus, settings)
    planned = [utterance.id for shard in shards for utterance in shard.utterances]
    assert planned == sorted(utterance.id for utterance in corpus)
    assert all(shard.seconds >= 3.0 for shard in shards[:-1])
    for batches in (plan_batches(corpus, 2.0), plan_batches(corpus, 0.1)):
        assert sorted(u.id for batch in batches for u in batch) == sorted(u.id for u in corpus)
        assert all(len(batch) == 1 or len(batch) * batch[-1].duration <= 2.0 for batch in batches)
        assert all(batch[-1].duration == max(u.duration for u in batch) for batch in batches)


@pytest.mark.parametrize("speeds", [(), (1.0, 1.0), (0.1,)])
def test_speeds_out_of_range_are_refused(speeds):
    with pytest.raises(ValueError, match="speeds must be"):
        TargetSettings(speeds=speeds)
