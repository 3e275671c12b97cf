"""Every damage of a bundle is a BundleError in Python, by file name, before native code sees the bundle."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from asr_kd.errors import BundleError, MissingExtraError
from asr_kd.export.client_parity import client_input
from asr_kd.export.parity import verify_bundle
from asr_kd.export.sherpa_client import ClientFailure, client_is_installed, run_client
from asr_kd.files import json_text
from asr_kd.models.settings import Context
from asr_kd.models.weights import load_model
from asr_kd.runtime.bundle import DESCRIPTION, MODEL, TOKENS, file_entry, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from asr_kd.runtime.wire import WireFormat
from tests.helpers.tiny_models import noise_speech

METADATA_KEYS = sorted(WireFormat(32, 2, 2, 5, Context(4, 8), 13).metadata())


def edit(folder: Path, change) -> None:
    """Change bundle.json."""
    path = folder / DESCRIPTION
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json_text(info))


def rehash(folder: Path) -> None:
    """Make bundle.json agree with damaged files, as a careless or hostile exporter would."""
    entries = {"model": file_entry(folder / MODEL), "tokens": file_entry(folder / TOKENS)}
    edit(folder, lambda info: info["files"].update({key: entry.model_dump() for key, entry in entries.items()}))


def edit_graph(folder: Path, change) -> None:
    """Change the ONNX file through onnx, and the checksums with it."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(folder / MODEL)
    change(proto)
    (folder / MODEL).write_bytes(proto.SerializeToString())
    rehash(folder)


def refused(folder: Path, file: str, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        open_recognizer(folder)
    assert caught.value.where.startswith(str(folder / file))


@pytest.mark.parametrize("file", [MODEL, TOKENS])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_found_and_the_file_named(damaged, file, place):
    content = bytearray((damaged / file).read_bytes())
    content[round(place * (len(content) - 1))] ^= 1
    (damaged / file).write_bytes(content)
    refused(damaged, file, "SHA-256")


@pytest.mark.parametrize("file", [MODEL, TOKENS])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.999])
def test_a_truncated_file_is_found_and_named(damaged, file, keep):
    content = (damaged / file).read_bytes()
    (damaged / file).write_bytes(content[: int(keep * len(content))])
    refused(damaged, file, "SHA-256")


@pytest.mark.parametrize("file", [MODEL, TOKENS])
def test_a_missing_file_is_named(damaged, file):
    (damaged / file).unlink()
    refused(damaged, file, "cannot be read")


def test_a_folder_without_a_description_is_no_bundle(damaged):
    (damaged / DESCRIPTION).unlink()
    with pytest.raises(BundleError, match=r"bundle\.json is missing"):
        read_bundle(damaged)
    with pytest.raises(BundleError, match="not a folder"):
        read_bundle(damaged / "no such")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda info: info.update(version=2), "format version 2"),
        (lambda info: info.pop("version"), "format version None"),
        (lambda info: info.update(format="other"), "asr-kd bundle"),
        (lambda info: info.update(extra=1), "extra"),
        (lambda info: info.pop("files"), "files"),
        (lambda info: info["files"].update(extra={"sha256": "0" * 64, "size_bytes": 1}), "files.extra"),
        (lambda info: info["features"].update(num_mel_bins=64), "num_mel_bins': 64"),
        (lambda info: info["model"].update(streaming=None), "full-context"),
        (lambda info: info["model"].update(width=33), "multiple"),
        (lambda info: info["streaming"].update(chunk_frames=16), "chunk_frames=16"),
        (lambda info: info["trace"].update(wer={"dev": "low"}), "trace.wer.dev"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(damaged, change, message):
    edit(damaged, change)
    refused(damaged, DESCRIPTION, message)


@pytest.mark.parametrize("text", ["", "[]", '{"format": "asr-kd bundle", ', "[" * 100_000, "\x00"])
def test_a_description_that_is_no_json_object_is_refused(damaged, text):
    (damaged / DESCRIPTION).write_text(text)
    refused(damaged, DESCRIPTION, r"JSON|holds no object")


def test_a_binary_description_is_refused(damaged):
    (damaged / DESCRIPTION).write_bytes(b"\x80\x04\xff")
    refused(damaged, DESCRIPTION, "JSON")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["blank 0", *lines[1:]], "<blk>"),
        (lambda lines: [*lines[:5], *lines[6:]], 'expected "symbol 5"'),
        (lambda lines: lines[:-1], "tokens, blank 0"),
        (lambda lines: [*lines[:-1], f"A {len(lines) - 1}"], "has the ids"),
        (lambda lines: [*lines[:-1], f"Ä {len(lines) - 1}"], "SHA-256"),
    ],
)
def test_tokens_that_would_end_the_client_are_refused_even_with_the_right_checksum(damaged, change, message):
    lines = (damaged / TOKENS).read_text(encoding="utf-8").splitlines()
    (damaged / TOKENS).write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    rehash(damaged)
    refused(damaged, TOKENS, message)


@pytest.mark.parametrize("key", METADATA_KEYS)
def test_missing_or_wrong_metadata_is_refused_even_with_the_right_checksum(damaged, key):
    assert len(METADATA_KEYS) == 9

    def drop(proto):
        (found,) = [entry for entry in proto.metadata_props if entry.key == key]
        proto.metadata_props.remove(found)

    edit_graph(damaged, drop)
    refused(damaged, MODEL, f"{key} is missing")

    def wrong(proto):
        proto.metadata_props.add(key=key, value="7,7")

    edit_graph(damaged, wrong)
    refused(damaged, MODEL, f"{key} is '7,7'")


def swap_states(proto) -> None:
    """Two inputs of other shapes change places: names stay right, positions do not."""
    first, second = proto.graph.input[1], proto.graph.input[2]
    held = type(first)()
    held.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(held)


def bake_batch(proto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def drop_output(proto) -> None:
    del proto.graph.output[-1]


def other_chunk(proto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 20


def no_nodes(proto) -> None:
    del proto.graph.node[:]


def unknown_operator(proto) -> None:
    proto.graph.node[3].op_type = "RunAnything"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swap_states, "input 1"),
        (bake_batch, r"input 0|cannot load"),
        (drop_output, "14 outputs|13 outputs"),
        (other_chunk, r"input 0|cannot load"),
        (no_nodes, "cannot load"),
        (unknown_operator, "cannot load"),
    ],
)
def test_a_graph_of_another_shape_is_refused_even_with_the_right_checksum(damaged, change, message):
    edit_graph(damaged, change)
    refused(damaged, MODEL, message)


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"ORTM" * 1_000, bytes(range(256)) * 100])
def test_what_is_no_graph_is_refused_even_with_the_right_checksum(damaged, content):
    (damaged / MODEL).write_bytes(content)
    if content:
        rehash(damaged)
    refused(damaged, MODEL, "cannot load|SHA-256")


@pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
def test_the_client_dies_where_we_raise(damaged, model_folder):
    """Why validation comes first: the client takes its whole process along, ours only gets an error."""
    edit_graph(damaged, lambda proto: proto.metadata_props.pop())
    audio = [noise_speech(0.5)]
    with pytest.raises(BundleError, match="metadata"):
        verify_bundle(damaged, load_model(model_folder), audio)
    with pytest.raises(ClientFailure, match="exit status"):
        run_client(damaged / MODEL, damaged / TOKENS, [item.numpy() for item in audio])


def test_opening_a_damaged_bundle_ends_in_a_message_and_no_crash(bundle, tmp_path):
    """In a process of its own, because the alternative would end this one."""
    metadata, blank, truncated, bit = (
        Path(shutil.copytree(bundle, tmp_path / name)) for name in ("metadata", "blank", "truncated", "bit")
    )
    edit_graph(metadata, lambda proto: proto.metadata_props.pop())
    tokens = (blank / TOKENS).read_text(encoding="utf-8")
    (blank / TOKENS).write_text(tokens.replace("<blk>", "<pad>"), encoding="utf-8")
    rehash(blank)
    content = (bundle / MODEL).read_bytes()
    (truncated / MODEL).write_bytes(content[:-100])
    (bit / MODEL).write_bytes(content[:999] + bytes([content[999] ^ 8]) + content[1_000:])
    script = (
        "import sys\nfrom asr_kd.errors import BundleError\nfrom asr_kd.runtime.recognizer import open_recognizer\n"
        "for folder in sys.argv[1:]:\n    try:\n        open_recognizer(folder)\n        print('it opens')\n"
        "    except BundleError as error:\n        print(error)\n"
    )
    words = [sys.executable, "-P", "-c", script, *map(str, (metadata, blank, truncated, bit))]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    named = [metadata / MODEL, blank / TOKENS, truncated / MODEL, bit / MODEL]
    for line, file in zip(done.stdout.splitlines(), named, strict=True):
        assert line.startswith(str(file))


@pytest.mark.parametrize("place", ["absolute", "here", "beside the graph", "through the graph"])
def test_a_graph_cannot_read_other_files(damaged, tmp_path, monkeypatch, place):
    """External data would let a graph read any file; a bundle's graph is one file."""
    monkeypatch.chdir(tmp_path if place in ("absolute", "here") else damaged)
    secret = Path.cwd() / "secret.bin"
    secret.write_bytes(bytes(4_000_000))
    location = {"absolute": str(secret), "through the graph": f"../{secret.name}"}.get(place, secret.name)

    def point_outside(proto):
        tensor = max(proto.graph.initializer, key=lambda item: len(item.raw_data))
        size = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = 1  # EXTERNAL
        for key, value in {
            "location": location,
            "offset": "0",
            "length": str(size),
        }.items():
            tensor.external_data.add(key=key, value=value)

    edit_graph(damaged, point_outside)
    refused(damaged, MODEL, "cannot load")


def test_a_missing_runtime_names_the_extra(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"asr-kd\[export\]"):
        open_recognizer(bundle)


def test_the_tests_above_start_from_a_bundle_that_opens(damaged):
    rehash(damaged)
    assert open_recognizer(damaged).transcribe([noise_speech(1.0)])
    assert client_input(read_bundle(damaged), noise_speech(1.0)).shape[0] > 16_000
