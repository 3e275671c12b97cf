"""LibriSpeech from a server that stands in for its publisher's."""

import hashlib
import http.server
import io
import tarfile
import threading
from pathlib import Path

import pytest

from asr_kd.corpora import librispeech
from asr_kd.corpora.librispeech import (
    Archive,
    archives,
    download_librispeech,
    librispeech_folder,
    missing_splits,
    read_split,
)
from asr_kd.corpora.settings import LIBRISPEECH_SPLITS
from asr_kd.errors import CorpusError
from tests.helpers.corpus_layouts import write_chapter


def archive_of(folder: Path, split: str) -> bytes:
    """A split as its publisher packs it, with the tables that every archive holds."""
    write_chapter(folder / "LibriSpeech" / split, "84", [".flac", ".flac"])
    (folder / "LibriSpeech" / "SPEAKERS.TXT").write_text("; speakers\n")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(folder / "LibriSpeech", "LibriSpeech")
    return file.getvalue()


def publish(monkeypatch, *published: Archive) -> None:
    """Make these the publisher's archives."""
    known = {archive.split: archive for archive in published}
    monkeypatch.setattr(librispeech, "archives", lambda splits: [known[split] for split in dict.fromkeys(splits)])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """What is served, by path, and what was requested; the archives' addresses name this server."""
    served: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = served.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        published = []
        for split in ("dev-clean", "test-clean"):
            data = archive_of(tmp_path / "publisher" / split, split)
            served[f"/12/{split}.tar.gz"] = data
            url = f"http://127.0.0.1:{running.server_port}/12/{split}.tar.gz"
            published.append(Archive(split, url, hashlib.sha256(data).hexdigest()))
        publish(monkeypatch, *published)
        yield served, asked
        running.shutdown()


def test_splits_are_fetched_verified_and_unpacked_once(server, tmp_path):
    _, asked = server
    into, said = tmp_path / "corpora", []
    folder = download_librispeech(["dev-clean", "test-clean", "dev-clean"], into, said.append)
    assert folder == into / "LibriSpeech"
    assert asked == ["/12/dev-clean.tar.gz", "/12/test-clean.tar.gz"]
    assert [len(read_split(folder, split)[0]) for split in ("dev-clean", "test-clean")] == [2, 2]
    assert sorted(path.name for path in folder.iterdir()) == ["SPEAKERS.TXT", "dev-clean", "test-clean"]
    assert [path.name for path in into.iterdir()] == ["LibriSpeech"]  # no archive, no scratch
    assert download_librispeech(["dev-clean"], into, said.append) == folder
    assert len(asked) == 2
    assert said[-1] == "dev-clean: present"


def test_a_wrong_checksum_is_named_and_nothing_is_kept(server, tmp_path):
    served, _ = server
    right = served["/12/dev-clean.tar.gz"]
    served["/12/dev-clean.tar.gz"] = right[:-100]
    with pytest.raises(CorpusError, match="is not the publisher's archive, or not all of it") as caught:
        download_librispeech(["dev-clean"], tmp_path / "corpora", lambda line: None)
    assert hashlib.sha256(right).hexdigest() in str(caught.value)
    assert hashlib.sha256(right[:-100]).hexdigest() in str(caught.value)
    assert list((tmp_path / "corpora").iterdir()) == []
    served["/12/dev-clean.tar.gz"] = right
    download_librispeech(["dev-clean"], tmp_path / "corpora", lambda line: None)
    assert missing_splits(["dev-clean"], tmp_path / "corpora") == []


def test_an_archive_that_is_there_is_verified_and_not_fetched(server, tmp_path):
    served, asked = server
    into = tmp_path / "corpora"
    into.mkdir()
    (into / "dev-clean.tar.gz").write_bytes(served["/12/dev-clean.tar.gz"][:-1])
    with pytest.raises(CorpusError, match=r"dev-clean\.tar\.gz: is not the publisher's archive"):
        download_librispeech(["dev-clean"], into, lambda line: None)
    assert (into / "dev-clean.tar.gz").exists()  # somebody brought it: theirs to remove
    (into / "dev-clean.tar.gz").write_bytes(served["/12/dev-clean.tar.gz"])
    folder = download_librispeech(["dev-clean"], into, lambda line: None)
    assert asked == []
    assert len(read_split(folder, "dev-clean")[0]) == 2


def test_a_call_that_was_cut_off_while_unpacking_is_done_again(server, tmp_path, monkeypatch):
    _, asked = server
    into = tmp_path / "corpora"

    def dies(*arguments, **options):
        (into / "LibriSpeech" / ".dev-clean.unpacking" / "LibriSpeech" / "dev-clean" / "half").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", dies)
        with pytest.raises(KeyboardInterrupt):
            download_librispeech(["dev-clean"], into, lambda line: None)
    assert missing_splits([], into) == []
    assert not (into / "LibriSpeech" / "dev-clean").exists()
    folder = download_librispeech(["dev-clean"], into, lambda line: None)
    assert asked == ["/12/dev-clean.tar.gz"], "not fetched again"
    assert sorted(path.name for path in folder.iterdir()) == ["SPEAKERS.TXT", "dev-clean"]
    assert [path.name for path in (folder / "dev-clean").iterdir()] == ["84"]


def test_without_a_network_the_other_way_is_named(server, tmp_path, monkeypatch):
    served, _ = server
    del served["/12/dev-clean.tar.gz"]
    with pytest.raises(CorpusError, match=r"cannot be downloaded \(Not Found\)"):
        download_librispeech(["dev-clean"], tmp_path, lambda line: None)
    publish(monkeypatch, Archive("dev-clean", "http://no-such-host.invalid/dev-clean.tar.gz", "0"))
    with pytest.raises(CorpusError, match=r"cannot be downloaded .*curl -LO http://no-such-host\.invalid") as caught:
        download_librispeech(["dev-clean"], tmp_path, lambda line: None)
    assert str(tmp_path / "dev-clean.tar.gz") in str(caught.value)


def test_an_archive_of_something_else_is_refused(server, tmp_path, monkeypatch):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("LibriSpeech/other"))
    into = tmp_path / "corpora"
    into.mkdir()
    for data, message in ((file.getvalue(), "holds no LibriSpeech/dev-clean"), (b"no tar", "cannot be unpacked")):
        (into / "dev-clean.tar.gz").write_bytes(data)
        publish(monkeypatch, Archive("dev-clean", "http://x/dev-clean.tar.gz", hashlib.sha256(data).hexdigest()))
        with pytest.raises(CorpusError, match=message):
            download_librispeech(["dev-clean"], into, lambda line: None)
        assert not (into / "LibriSpeech" / "dev-clean").exists()


def test_torchaudio_knows_every_split():
    found = archives(LIBRISPEECH_SPLITS)
    assert [archive.split for archive in found] == list(LIBRISPEECH_SPLITS)
    assert all(len(archive.sha256) == 64 and archive.url.startswith("http") for archive in found)
    with pytest.raises(CorpusError, match="has no split 'train-clean-10'"):
        archives(["train-clean-10"])


def test_a_corpus_that_is_there_in_another_case_is_found(tmp_path):
    write_chapter(tmp_path / "librispeech" / "dev-clean", "84", [".flac"])
    assert librispeech_folder(tmp_path) == tmp_path / "librispeech"
    assert missing_splits(["dev-clean", "test-clean"], tmp_path) == ["test-clean"]
