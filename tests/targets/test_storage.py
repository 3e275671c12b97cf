"""Storage: a folder, a disk without locks and an object store behave alike; errors of access."""

import fcntl
import hashlib
import pickle
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
import torch

from asr_kd.errors import AsrKdError, TargetsError
from asr_kd.files import json_text, parse_json, sha256_of_file
from asr_kd.targets import Store, extract, local_storage, s3_storage
from asr_kd.targets.inspect import verify
from asr_kd.targets.local_storage import LocalStorage
from asr_kd.targets.s3_storage import RemoteStorage, cache_folder
from asr_kd.targets.shard_manifest import done_shards
from asr_kd.targets.storage import open_storage
from tests.helpers.fake_teacher import FakeTeacher


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ASR_KD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["folder", "file", "memory", "memory that moves"])
def url(request, tmp_path, monkeypatch):
    """A place that is not there yet."""
    if request.param == "memory that moves":  # as on servers where a file appears while it is written
        monkeypatch.setattr(s3_storage, "WRITES_WHOLE", frozenset())
    base = {"folder": str(tmp_path), "file": f"file://{tmp_path}"}.get(request.param, f"memory://{uuid4().hex}")
    return f"{base}/deep/store"


def writes_whole(url: str) -> bool:
    """Whether a file appears at once there, so that none is moved."""
    return url.startswith("memory:") and bool(s3_storage.WRITES_WHOLE)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_come_back_as_they_were_put(url):
    place = open_storage(url)
    assert place.sizes() == {}
    assert place.sha256("a.json") is None
    with pytest.raises(FileNotFoundError):
        place.read("a.json")
    place.write("a.json", b"one")
    place.write("a.json", b"three")
    place.write("b.json", json_text({"é": 1}).encode())
    assert place.sizes() == {"a.json": 5, "b.json": len(json_text({"é": 1}).encode())}
    assert parse_json(place.read("b.json")) == {"é": 1}
    assert place.read("a.json") == b"three"
    assert place.sha256("a.json") == sha256(b"three")
    local = place.checked("a.json", sha256(b"three"))
    assert local is not None
    assert local.read_bytes() == b"three"
    assert place.checked("a.json", sha256(b"one")) is None
    assert place.checked("c.json", sha256(b"one")) is None
    copy = pickle.loads(pickle.dumps(place))  # noqa: S301 - what a DataLoader does
    assert copy.read("a.json") == b"three"
    assert str(place) == url


def test_a_failed_write_leaves_the_earlier_file(url, monkeypatch):
    place = open_storage(url)
    place.write("a.json", b"earlier")

    def full(*arguments, **names):
        raise OSError(28, "No space left on device")

    if isinstance(place, LocalStorage):
        monkeypatch.setattr(Path, "replace", full)
    else:
        files = fsspec.core.url_to_fs(url)[0]
        monkeypatch.setattr(type(files), "pipe_file" if writes_whole(url) else "mv", full)
    with pytest.raises(AsrKdError, match="No space left"):
        place.write("a.json", b"later")
    monkeypatch.undo()
    assert place.read("a.json") == b"earlier"
    assert list(place.sizes()) == ["a.json"]


def test_leftovers_of_the_killed_are_cleared(url):
    place = open_storage(url)
    place.write("shard-00001.safetensors", b"whole")
    if not writes_whole(url):
        place.write(".shard-00001.safetensors.77.partial", b"half")
        place.write(".shard-00002.safetensors.77.partial", b"another's")
        place.clear("shard-00001")
        assert sorted(place.sizes()) == [".shard-00002.safetensors.77.partial", "shard-00001.safetensors"]
    else:
        place.clear("shard-00001")
        assert list(place.sizes()) == ["shard-00001.safetensors"]


def test_a_store_is_made_resumed_and_read_anywhere(url, tmp_path, corpus, settings, cache):
    teacher = FakeTeacher()
    extract(teacher, corpus, settings, tmp_path / "reference")
    report = extract(teacher, corpus, settings, url)
    assert report.complete
    place = open_storage(url)
    reference, store = Store.open(tmp_path / "reference"), Store.open(url, teacher.vocabulary, teacher.sha256)
    assert store.info == reference.info
    assert report.made == len(store.info.shards) == done_shards(url) > 2
    for utterance in corpus:
        for one, other in zip(store.read(utterance.id)[:2], reference.read(utterance.id)[:2], strict=True):
            assert torch.equal(one, other)
    assert verify(url).ok
    assert bool(list(cache.glob("*"))) == url.startswith("memory"), "a disk needs no copies"

    name = store.info.shards[1].file
    place.write(name, bytes(store.info.shards[1].num_bytes))
    (damage,) = verify(url).damage
    assert name in damage
    again = extract(FakeTeacher(), corpus, settings, url)
    assert (again.made, again.skipped) == (1, report.made - 1)
    assert verify(url).ok
    with pytest.raises(TargetsError, match=r"differ in teacher"):
        extract(FakeTeacher(sha256="b" * 64), corpus, settings, url)


def test_copies_are_checked_and_fetched_anew(corpus, settings, cache):
    url = f"memory://{uuid4().hex}"
    extract(FakeTeacher(), corpus, settings, url)
    first = Store.open(url).info.shards[0]
    for path in cache.glob("*"):
        path.write_bytes(b"damaged by somebody")
    targets = Store.open(url).read(first.first_id)
    assert targets.tokens.shape[0] > 0
    copy = cache / f"{first.sha256}.safetensors"
    assert sha256_of_file(copy) == first.sha256
    open_storage(url).write(first.file, b"damaged")  # the copy still has what the index names
    with pytest.raises(TargetsError, match="damaged shards"):
        Store.open(url)


def test_messages_name_the_store_and_not_the_copy(corpus, settings):
    url = f"memory://{uuid4().hex}"
    extract(FakeTeacher(), corpus, settings, url)
    with pytest.raises(TargetsError, match=rf"^{url}/shard-00000\.safetensors: utterance .* frames of targets"):
        Store.open(url).read(corpus[0].id, num_frames=1)
    with pytest.raises(TargetsError, match=rf"^{url}/shard-00000\.safetensors: has no array"):
        Store.open(url).read_array("layer-1", corpus[0].id)


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(corpus, settings, cache, monkeypatch):
    url = f"memory://{uuid4().hex}"
    extract(FakeTeacher(), corpus, settings, url)
    cache.rename(cache.with_name("elsewhere"))
    cache.write_text("a file")
    with pytest.raises(TargetsError, match=rf"^{cache}.*cannot be written.*ASR_KD_CACHE"):
        Store.open(url).read(corpus[0].id)


def test_a_copy_that_is_deleted_while_it_is_checked_is_fetched_anew(corpus, settings, cache, monkeypatch):
    place = open_storage(f"memory://{uuid4().hex}")
    place.write("a.safetensors", b"content")
    copy = place.checked("a.safetensors", sha256(b"content"))

    def deleted(path: Path) -> str:
        monkeypatch.undo()
        monkeypatch.setenv("ASR_KD_CACHE", str(cache))
        copy.unlink()
        return sha256_of_file(path)

    monkeypatch.setattr(s3_storage, "sha256_of_file", deleted)
    assert place.checked("a.safetensors", sha256(b"content")).read_bytes() == b"content"


def test_a_listing_without_sizes_is_completed(monkeypatch):
    """As fsspec's HTTP file system lists folders."""
    place = open_storage(f"memory://{uuid4().hex}")
    place.write("a.json", b"three")
    memory = fsspec.get_filesystem_class("memory")
    listed = memory.ls
    monkeypatch.setattr(
        memory, "ls", lambda *given, **named: [{**row, "size": None} for row in listed(*given, **named)]
    )
    assert place.sizes() == {"a.json": 5}


def test_files_that_other_processes_remove_while_they_are_listed_are_no_error(tmp_path, monkeypatch):
    place, status = LocalStorage(tmp_path), Path.stat
    for name in ("shard-00000.json", ".shard-00001.json.7.partial", "shard-00001.lock"):
        place.write(name, b"x")

    def removed_afterwards(path: Path, **named):
        found = status(path, **named)
        if path.parent == tmp_path and path.suffix != ".json":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", removed_afterwards)
    assert place.sizes()["shard-00000.json"] == 1
    assert place.sizes() == {"shard-00000.json": 1}


def test_no_store_behind_a_url():
    with pytest.raises(TargetsError, match=r"memory://nothing.*no soft targets here"):
        Store.open("memory://nothing")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("oci://bucket/store", r"oci://bucket/store: the file system driver of oci:// .*pip install ocifs"),
        ("nonsense://bucket/store", r"nonsense://bucket/store: cannot be read or written .*nonsense"),
    ],
)
def test_what_cannot_be_reached_is_an_error(url, message, corpus, settings):
    with pytest.raises(TargetsError, match=message):
        Store.open(url)
    with pytest.raises(TargetsError, match=message):
        extract(FakeTeacher(), corpus, settings, url)


def test_errors_of_a_driver_are_converted(monkeypatch):
    class Refused(Exception):
        """As drivers have their own."""

    def refuse(*arguments, **names):
        raise Refused("403 Forbidden")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cat_file", refuse)
    with pytest.raises(TargetsError, match=r"cannot be read or written \(Refused: 403 Forbidden\).*credentials"):
        Store.open("memory://somewhere")


def test_a_missing_bucket_is_an_error(monkeypatch, corpus, settings):
    def missing(*arguments, **names):
        raise FileNotFoundError(2, "The specified bucket does not exist")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", missing)
    with pytest.raises(TargetsError, match=r"memory://bucket: cannot be .*bucket does not exist.*a bucket that exists"):
        extract(FakeTeacher(), corpus, settings, "memory://bucket")


def test_a_disk_without_locks_is_an_error_and_usable_as_a_url(monkeypatch, tmp_path, corpus, settings):
    def unlocked(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(local_storage.fcntl, "flock", unlocked)
    with pytest.raises(TargetsError, match=f"does not lock files.*file://{tmp_path}/store"):
        extract(FakeTeacher(), corpus, settings, tmp_path / "store")
    assert extract(FakeTeacher(), corpus, settings, f"file://{tmp_path}/store").complete


def test_a_password_in_a_url_is_not_shown():
    assert str(RemoteStorage("sftp://me:secret@host/folder/")) == "sftp://host/folder"
    with pytest.raises(TargetsError) as error:
        Store.open("sftp://me:secret@host/folder")
    assert "secret" not in str(error.value)


def test_a_url_that_was_taken_for_a_path_is_refused():
    with pytest.raises(TargetsError, match="looks like a URL that lost a slash"):
        open_storage(Path("s3://bucket/folder"))
    assert isinstance(open_storage("C:/folder"), LocalStorage)
    assert isinstance(open_storage(Path("targets/teacher")), LocalStorage)


def test_the_cache_is_where_the_variable_names(monkeypatch, tmp_path, cache):
    assert cache_folder() == cache
    monkeypatch.delenv("ASR_KD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "asr-kd" / "shards"


def test_a_lock_that_was_released_while_another_process_opened_it_excludes_a_third(tmp_path, monkeypatch):
    first, second, third = (LocalStorage(tmp_path) for _ in range(3))
    assert first.acquire("shard") is None
    flock = fcntl.flock

    def after_the_release(file, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release("shard")  # removes the file that `second` has open
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_release)
    assert second.acquire("shard") is None
    assert "process" in (third.acquire("shard") or "")
    second.release("shard")
    assert third.acquire("shard") is None


def test_a_disk_that_is_full_when_a_shard_is_locked_is_an_error_with_its_remedy(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local_storage.os, "write", full)
    with pytest.raises(TargetsError, match=r"cannot be written \(No space left on device\).*Free some space") as error:
        LocalStorage(tmp_path).acquire("shard")
    monkeypatch.undo()
    assert LocalStorage(tmp_path).acquire("shard") is None, f"held by {error.value}"


def test_a_lock_that_a_network_disk_denies_is_held_by_another(tmp_path, monkeypatch):
    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local_storage.fcntl, "flock", denied)
    assert "lock" in (LocalStorage(tmp_path).acquire("shard") or "")
