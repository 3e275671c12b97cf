"""A bundle as a folder of static files: one page that runs the model in the browser, without a server.

The page is that of the live server; its own `transport.js` sends audio to a worker instead of a websocket.
The worker runs onnxruntime-web, which is fetched once from its npm package, pinned by its hash:

    python -m asr_kd.export.web          # or: make web

Its files lie below `assets/onnxruntime-web/`, are not under version control, and are part of the wheel.
"""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.resources import files
from pathlib import Path

from asr_kd.decoding.settings import EndpointSettings
from asr_kd.errors import AsrKdError, BundleError
from asr_kd.files import atomic_folder
from asr_kd.runtime.bundle import INT8, MODEL, Bundle, read_bundle
from asr_kd.runtime.wire import BATCH, unprintable_tokens

DESCRIPTION, SERVICE_WORKER = "bundle.json", "service-worker.js"
SHARED = ("index.html", "page.css", "page.js", "capture.js", "resampler.js")
"""Files of the live server's page."""
OWN = ("transport.js", "worker.js", "fbank.js", "decoder.js")

POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; worker-src 'self'; base-uri 'none'; form-action 'none'"
)


def write_web(bundle_folder: Path, destination: Path) -> Path:
    """Write the page for a verified bundle, whole or not at all, and return its path; any static file server serves it.

    The 8-bit form is used where the bundle has it. A vocabulary with `<unk>` is refused: the page would print it.

    Raises:
        BundleError: the bundle is damaged or has no ONNX graph, or onnxruntime-web has not been fetched.
    """
    info = read_bundle(bundle_folder).info
    graph = next((name for name in (INT8, MODEL) if name in info.files.graphs), None)
    if graph is None:
        raise BundleError("has no ONNX graph", where=bundle_folder, expected=f"{MODEL} or {INT8}: format sherpa")
    bundle = read_bundle(bundle_folder, graph)
    if unprintable_tokens(bundle.vocabulary):
        raise BundleError(
            "has tokens that must not be printed", where=bundle_folder, expected="a vocabulary without <unk>"
        )
    with atomic_folder(destination, guard=True) as partial:
        contents = {name: _asset("serve", name) for name in SHARED} | {
            name: _asset("export", f"web/{name}") for name in OWN
        }
        contents["index.html"] = _with_policy(contents["index.html"])
        contents |= {path.name: path.read_bytes() for path in runtime_files()}
        contents |= {
            graph: bundle.graph_bytes,
            DESCRIPTION: json.dumps(_description(bundle), ensure_ascii=False).encode(),
        }
        contents[SERVICE_WORKER] = _service_worker(contents)
        for name, content in contents.items():
            (partial / name).write_bytes(content)
    return destination / "index.html"


def _asset(folder: str, name: str) -> bytes:
    return files("asr_kd").joinpath(folder, "assets", *name.split("/")).read_bytes()


def _with_policy(page: bytes) -> bytes:
    """Add the policy that the live server sends as a header."""
    first = b'<meta charset="utf-8">'
    if page.count(first) != 1:
        raise ValueError(f"index.html must hold {first.decode()} once")
    return page.replace(first, first + f'\n<meta http-equiv="Content-Security-Policy" content="{POLICY}">'.encode())


def _description(bundle: Bundle) -> dict[str, object]:
    """What the worker needs of a bundle, with names as in bundle.json."""
    streaming, endpoint = bundle.info.streaming, EndpointSettings()
    return {
        "name": bundle.info.name,
        "model": bundle.graph,
        "sha256": hashlib.sha256(bundle.graph_bytes).hexdigest(),
        "chunk_frames": streaming.chunk_frames,
        "window_feature_frames": streaming.context.window_feature_frames,
        "chunk_ms": streaming.chunk_ms,
        "lookahead_ms": streaming.lookahead_ms,
        "tail_ms": streaming.tail_ms,
        "symbols": list(bundle.vocabulary.symbols),
        "blank_id": bundle.vocabulary.blank_id,
        "endpoint": [
            endpoint.rule1_min_trailing_silence,
            endpoint.rule2_min_trailing_silence,
            endpoint.rule3_min_utterance_length,
        ],
        "input": bundle.wire.inputs()[0].name,
        "states": [
            {"name": name, "dtype": dtype, "shape": [1 if size == BATCH else size for size in shape]}
            for name, dtype, shape in bundle.wire.states()
        ],
        "outputs": [spec.name for spec in bundle.wire.outputs()],
    }


def _service_worker(contents: dict[str, bytes]) -> bytes:
    """The worker that keeps all files, under a version that changes with any of them."""
    version = hashlib.sha256(b"".join(hashlib.sha256(contents[name]).digest() for name in sorted(contents))).hexdigest()
    values = {"VERSION": f"asr-kd-{version[:16]}", "FILES": json.dumps(["./", *sorted(contents)])}
    script = _asset("export", f"web/{SERVICE_WORKER}").decode()
    return re.sub(r"@(\w+)@", lambda found: values[found[1]], script).encode()


RUNTIME_VERSION = "1.22.0"
PACKAGE = f"onnxruntime-web@{RUNTIME_VERSION}"
INTEGRITY = "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
"""SHA-512 of the package, base64, as npm states it."""
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
RUNTIME_LICENCE = Path(__file__).parent / "assets" / "onnxruntime-web.LICENSE"
RUNTIME_FOLDER = Path(__file__).parent / "assets" / "onnxruntime-web"


def runtime_files() -> list[Path]:
    """Return the files of the fetched package.

    Raises:
        BundleError: they have not been fetched.
    """
    found = [RUNTIME_FOLDER / name for name in RUNTIME_FILES]
    if not all(path.is_file() for path in found):
        raise BundleError(
            "onnxruntime-web is not there",
            where=RUNTIME_FOLDER,
            expected=f"{', '.join(RUNTIME_FILES)} of version {RUNTIME_VERSION}",
            remedy="Fetch it with: python -m asr_kd.export.web (needs npm), then run the same command again",
        )
    return [*found, RUNTIME_LICENCE]


def fetch() -> Path:
    """Fetch the package with npm, compare its hash, and unpack the files that a page needs; return their folder.

    Raises:
        BundleError: no npm, no package, or another hash.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise BundleError("npm is not installed", expected=f"npm, to fetch {PACKAGE}", remedy="Install Node.js")
    with tempfile.TemporaryDirectory() as folder:
        words = [npm, "pack", PACKAGE, "--silent", "--pack-destination", folder]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(packages) != 1:
            raise BundleError(f"npm cannot fetch {PACKAGE}: {done.stderr.strip()[-300:]}", remedy="Try again later")
        found = base64.b64encode(hashlib.sha512(packages[0].read_bytes()).digest()).decode()
        if found != INTEGRITY:
            raise BundleError(
                f"{PACKAGE} has the SHA-512 {found}", expected=INTEGRITY, remedy="Do not use this package"
            )
        with atomic_folder(RUNTIME_FOLDER) as partial, tarfile.open(packages[0]) as archive:
            for name in RUNTIME_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                if member is None:
                    raise BundleError(f"{PACKAGE} holds no {name}")
                (partial / name).write_bytes(member.read())
    return RUNTIME_FOLDER


if __name__ == "__main__":
    try:
        print(f"{fetch()}: {PACKAGE}")
    except AsrKdError as error:
        sys.exit(f"asr-kd: {error}")
