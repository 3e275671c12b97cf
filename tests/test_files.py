"""Files and folders appear whole or not at all, also when the disk is full; and their hashes."""

import errno
import hashlib
import os
import resource
from pathlib import Path

import pytest
import torch

from asr_kd.errors import AsrKdError
from asr_kd.files import (
    WRITTEN,
    atomic_folder,
    atomic_path,
    read_json,
    register_files,
    release_files,
    sha256_of,
    sha256_of_file,
    write_json,
    write_text,
    written_files,
)
from asr_kd.models.weights import write_tensors
from tests.helpers.forked import in_a_process


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def write_and_fail(path: Path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_appears_whole_and_parents_are_made(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with atomic_path(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["b.txt"]


def test_an_error_in_the_middle_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as partial:
        write_and_fail(partial)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_whole_in_place_of_the_old(tmp_path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "a").write_text("1")
        (partial / "gone").write_text("1")
    with atomic_folder(folder) as partial:
        (partial / "b").write_text("2")
        assert names(folder) == ["gone", "sub"]
    assert names(folder) == ["b"]
    assert names(tmp_path) == ["model"]


def test_an_error_in_the_middle_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(folder) as partial:
        write_and_fail(partial / "weights")
    assert (folder / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_a_guarded_folder_is_replaced_only_when_every_file_in_it_is_ours(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    for content in ("1", "2"):
        with atomic_folder(folder, guard=True) as partial:
            (partial / "sub").mkdir()
            (partial / "sub" / "a").write_text(content)
    assert (folder / "sub" / "a").read_text() == "2"
    assert (folder / WRITTEN).read_text() == "sub/a\n"
    (folder / "sub" / "notes.txt").write_text("mine")
    with pytest.raises(AsrKdError, match=r"did not write there: sub/notes\.txt"), atomic_folder(folder, guard=True):
        raise ZeroDivisionError  # not reached
    assert (folder / "sub" / "notes.txt").read_text() == "mine"
    assert names(tmp_path) == ["bundle"]


def test_a_folder_without_a_list_or_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "document").write_text("mine")
    for place, message in ((tmp_path, "did not write there: document"), (tmp_path / "document", "is a file")):
        with pytest.raises(AsrKdError, match=message), atomic_folder(place, guard=True):
            raise ZeroDivisionError  # not reached
    assert names(tmp_path) == ["document"]


def test_a_claimed_file_may_be_written_again_and_a_foreign_one_may_not(tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    for _ in range(2):
        register_files(tmp_path, ["table.md"])
        write_text(tmp_path / "table.md", "ours")
    with pytest.raises(AsrKdError, match=r"notes\.md: exists, and asr-kd did not write it"):
        register_files(tmp_path, ["table.md", "notes.md"])
    assert (tmp_path / WRITTEN).read_text() == "table.md\n"


@pytest.mark.parametrize("step", ["mkdir", "rename"])
def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch, step):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("old")
    real = getattr(Path, step)

    def failing(path: Path, *args: object, **kwargs: object) -> object:
        return full_disk() if path.name.endswith(".partial") else real(path, *args, **kwargs)

    monkeypatch.setattr(Path, step, failing)
    with pytest.raises(AsrKdError, match="No space left on device"), atomic_folder(folder) as partial:
        (partial / "weights").write_text("new")
    assert (folder / "weights").read_text() == "old"
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_full_or_closed_disk_is_one_message_that_names_the_file(tmp_path, monkeypatch, code):
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "results.json"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(AsrKdError) as caught:
        write_json(path, {"a": 1})
    assert str(caught.value).startswith(f"{path}: cannot be written ({os.strerror(code)})")
    assert "Free some space" in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["results.json"]


def test_a_parent_that_is_a_file_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (lambda path: write_text(path, "x"), lambda path: atomic_folder(path).__enter__()):
        with pytest.raises(AsrKdError, match="file: cannot be written"):
            write(tmp_path / "file" / "below")


def test_a_real_limit_on_size_is_the_same_message_for_tensors_too(tmp_path):
    # safetensors reports a full disk in an error class of its own.
    path = tmp_path / "model.safetensors"
    path.write_text("old")

    def write() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        with pytest.raises(AsrKdError) as caught, atomic_path(path) as partial:
            write_tensors(partial, {"weights": torch.zeros(100_000)})
        return str(caught.value)

    message = in_a_process(write)
    assert message.startswith(f"{path}: cannot be written (")
    assert "File too large" in message
    assert path.read_text() == "old"
    assert names(tmp_path) == ["model.safetensors"]


def test_json_keeps_its_order_and_its_letters(tmp_path):
    write_json(tmp_path / "a.json", {"b": "é", "a": [1, 2]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.index('"b"') < text.index('"a"')
    assert "é" in text
    assert text.endswith("\n")
    assert read_json(tmp_path / "a.json") == {"b": "é", "a": [1, 2]}


def test_hashes_have_known_values(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(tmp_path / "abc") == known
    assert sha256_of({"b": 1, "a": Path("x")}) == hashlib.sha256(b'{"a": "x", "b": 1}').hexdigest()
    assert sha256_of([1, 2]) != sha256_of([2, 1])


def test_a_released_name_is_free_for_others(tmp_path):
    register_files(tmp_path, ["a", "b"])
    (tmp_path / "a").write_text("ours")
    (tmp_path / "b").write_text("ours")
    release_files(tmp_path, ["a", "c"])
    assert (written_files(tmp_path), (tmp_path / "a").exists()) == ({"b"}, False)
    (tmp_path / "a").write_text("a user's")
    with pytest.raises(AsrKdError, match="asr-kd did not write it"):
        register_files(tmp_path, ["a"])
    release_files(tmp_path, ["a"])
    assert (tmp_path / "a").read_text() == "a user's"
