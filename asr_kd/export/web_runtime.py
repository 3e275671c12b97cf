"""onnxruntime-web, which runs a bundle's graph in a browser: fetched once from its npm package, pinned by its hash.

    python -m asr_kd.export.web_runtime          # or: make web

The files lie below `assets/onnxruntime-web/`, are not under version control, and are part of the wheel.
"""

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from asr_kd.errors import AsrKdError, BundleError
from asr_kd.files import atomic_folder

VERSION = "1.22.0"
PACKAGE = f"onnxruntime-web@{VERSION}"
INTEGRITY = "Ud/+EBo6mhuaQWt/OjaOk0iNWjXqJoeeMFr6xQEERZdIZH2OWpGzuujz7lfuOBjUa6TEE/sc4nb7Da5dNL34fg=="
"""SHA-512 of the package, base64, as npm states it."""
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
LICENCE = Path(__file__).parent / "assets" / "onnxruntime-web.LICENSE"
FOLDER = Path(__file__).parent / "assets" / "onnxruntime-web"


def runtime_files() -> list[Path]:
    """Return the files of the fetched package.

    Raises:
        BundleError: they have not been fetched.
    """
    found = [FOLDER / name for name in FILES]
    if not all(path.is_file() for path in found):
        raise BundleError(
            "onnxruntime-web is not there",
            where=FOLDER,
            expected=f"{', '.join(FILES)} of version {VERSION}",
            remedy="Fetch it with: python -m asr_kd.export.web_runtime (needs npm), then run the same command again",
        )
    return [*found, LICENCE]


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
        with atomic_folder(FOLDER) as partial, tarfile.open(packages[0]) as archive:
            for name in FILES:
                member = archive.extractfile(f"package/dist/{name}")
                if member is None:
                    raise BundleError(f"{PACKAGE} holds no {name}")
                (partial / name).write_bytes(member.read())
    return FOLDER


if __name__ == "__main__":
    try:
        print(f"{fetch()}: {PACKAGE}")
    except AsrKdError as error:
        sys.exit(f"asr-kd: {error}")
