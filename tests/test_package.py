"""The wheel: what it contains, and that it works in an empty environment without a checkout."""

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.export import web
from tests.export.test_web import choose, served
from tests.helpers.browser import open_tab
from tests.helpers.tiny_run import ROOT

PARTS = ("asr_kd", "recipes", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        path = ROOT / part
        if path.is_dir():
            shutil.copytree(path, source / part, ignore=ignored)
        else:
            shutil.copy(path, source)
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(source / "dist")]
    subprocess.run(words, cwd=source, check=True, capture_output=True, timeout=600)
    return next((source / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> dict[str, str]:
    """An empty environment with the wheel; what it depends on comes from this one, whose asr_kd is not seen."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    words = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*words, "--no-deps", "--no-index", str(wheel)], check=True, timeout=600)
    packages = sysconfig.get_path("purelib")  # on PYTHONPATH, .pth files (an editable asr_kd) are not read
    return {**os.environ, "PYTHONPATH": packages, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


def _run(environment: dict[str, str], folder: Path, *words: str) -> str:
    done = subprocess.run(
        [shutil.which("asr-kd", path=environment["PATH"]) or "asr-kd", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_holds_recipes_and_assets_and_no_weights(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "asr_kd/recipes/Synthetic/synthetic.yaml" in names
    assert "asr_kd/recipes/examples/plain_pytorch.py" in names
    assert {"asr_kd/py.typed", "asr_kd/corpora/grammar.txt"} <= set(names)
    assert any(name.startswith("asr_kd/serve/assets/") for name in names)
    assert not [name for name in names if name.endswith(".safetensors") or name.startswith(("tests", "recipes"))]


def test_its_metadata_passes_the_check_of_the_index(wheel):
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", str(wheel)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_from_an_empty_environment_to_a_bundle(environment, tmp_path):
    random = np.random.default_rng(0)
    for number in range(60):
        place = tmp_path / "recordings" / f"s{number % 10}" / f"{number}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(place, random.uniform(-0.1, 0.1, 16_000), 16_000)
        place.with_suffix(".txt").write_text(("YES", "NO", "GO")[number % 3])
    assert "Synthetic/synthetic" in _run(environment, tmp_path, "recipe", "ls")
    assert "Next: asr-kd check recordings.yaml, then asr-kd run recordings.yaml" in _run(
        environment, tmp_path, "init", "recordings"
    )
    fast = {
        "model.size": "tiny",
        "train.epochs": "1",
        "train.validate_every_epochs": "1",
        "train.warmup_epochs": "0",
        "train.average_best": "1",
    }
    page = web.RUNTIME_FOLDER.is_dir()  # then it is in the wheel too
    forms = ["export.formats=[sherpa, web]"] if page else []
    units = ("teachers.teacher", "students.student-hard", "students.student-kd")
    overrides = [f"{unit}.{key}={value}" for unit in units for key, value in fast.items()]
    overrides += [
        f"evaluate.{key}" for key in ("bootstrap_samples=200", "rtf_utterances=2", "memory=false", "robustness=[]")
    ]
    overrides += ["evaluate.sample_utterances=2", "export.models=[student-kd]", "export.verify_utterances=2"]
    overrides += ["evaluate.silence_seconds=1", "evaluate.stream_silence_seconds=1"]
    printed = _run(
        environment,
        tmp_path,
        "run",
        "recordings.yaml",
        "sanity.max_wer=2",
        *forms,
        *overrides,
    )
    assert (tmp_path / "exp" / "recordings" / "export" / "student-kd" / "bundle.json").is_file()
    assert (tmp_path / "exp" / "recordings" / "report" / "index.html").is_file()
    assert ("page:    python -m http.server" in printed) == page
    if not page:
        pytest.skip("up to the bundle; onnxruntime-web has not been fetched (make web), so there is no page to open")

    async def transcribed() -> bool:
        with served(tmp_path / "exp" / "recordings" / "export" / "student-kd-web") as (_, address):
            async with open_tab(tmp_path, address) as tab:
                await choose(tab, tmp_path / "recordings" / "s0" / "0.wav")
                await tab.until(
                    "document.documentElement.dataset.state === 'ready' && !document.getElementById('file').disabled"
                )
                return await tab.value("document.getElementById('notice').hidden")

    assert asyncio.run(transcribed())
