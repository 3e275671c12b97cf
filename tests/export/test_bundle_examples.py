"""A bundle's other examples: its C++ compiles by the README's own command, its script runs as a script."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_kd.export.readme import EXAMPLES, PROGRAM_TAIL_MS, write_readme
from asr_kd.export.sherpa_client import client_is_installed, run_client
from asr_kd.runtime.bundle import MODEL, TOKENS, read_bundle
from tests.helpers.tiny_models import noise_speech

PROGRAM_LEAD_MS = 500
"""Silence that the client's program puts before a recording."""

needs_client = pytest.mark.skipif(not client_is_installed(), reason="sherpa-onnx is not installed")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")


def with_venv(**more: str) -> dict[str, str]:
    """The environment of someone who activated this one."""
    return {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]), **more}


@pytest.fixture
def recording(tmp_path) -> Path:
    path = tmp_path / "a recording.wav"
    soundfile.write(path, noise_speech(2.7, 21).numpy(), 16_000, subtype="PCM_16")
    return path


def samples(path: Path) -> np.ndarray:
    return soundfile.read(path, dtype="float32")[0]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, env=with_venv())
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(forms, tmp_path_factory) -> Path:
    """The C++ example, by the very lines of the bundle's README."""
    headers = Path(run([sys.executable, "-P", "-c", "import sherpa_onnx; print(sherpa_onnx.__file__)"], forms).strip())
    if not (headers.parent / "include" / "sherpa-onnx" / "c-api" / "c-api.h").is_file():
        pytest.skip("this build of sherpa-onnx brings no headers")
    folder = Path(shutil.copytree(forms, tmp_path_factory.mktemp("c++") / "a bundle"))
    (block,) = [
        text for text in re.findall(r"```bash\n(.*?)```", (folder / "README.md").read_text(), re.S) if "g++" in text
    ]
    commands = [line for line in block.splitlines() if not line.startswith("./")]
    run(["sh", "-ec", "\n".join(commands)], folder)
    return folder


@needs_client
@needs_compiler
def test_the_cpp_example_writes_what_the_python_example_writes(built, recording, tmp_path):
    ours = run([str(built / "recognize"), str(built), str(recording)], tmp_path)
    theirs = run([sys.executable, "-P", str(built / "examples" / "sherpa_onnx_file.py"), str(recording)], tmp_path)
    assert ours.split() == theirs.split()
    assert len(ours.split()) >= 2


@needs_client
@needs_compiler
def test_the_cpp_example_takes_other_rates_and_says_what_is_missing(built, recording, tmp_path):
    soundfile.write(tmp_path / "8k.wav", samples(recording)[::2], 8_000, subtype="PCM_16")
    assert run([str(built / "recognize"), str(built), str(tmp_path / "8k.wav")], tmp_path).strip()
    for words in (["nowhere", recording], [built, "nowhere.wav"], []):
        done = subprocess.run(
            [built / "recognize", *words], cwd=tmp_path, capture_output=True, text=True, check=False, env=with_venv()
        )
        assert done.returncode in (1, 2)
        assert "does not exist" in done.stderr or "usage" in done.stderr


@needs_client
@pytest.mark.skipif(shutil.which("sherpa-onnx", path=with_venv()["PATH"]) is None, reason="no sherpa-onnx-bin")
def test_the_script_runs_the_clients_program_from_anywhere(bundle, recording, tmp_path):
    """What the program writes is what the client hears with the silence that the program adds."""
    script = Path(shutil.copytree(bundle, tmp_path / "a bundle")) / "examples" / "command_line.sh"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        ["sh", str(script), str(recording)], cwd=elsewhere, capture_output=True, text=True, check=False, env=with_venv()
    )
    assert done.returncode == 0, done.stderr
    (answer,) = [json.loads(line) for line in done.stderr.splitlines() + done.stdout.splitlines() if line[:1] == "{"]
    lead, tail = (np.zeros(16 * ms, np.float32) for ms in (PROGRAM_LEAD_MS, PROGRAM_TAIL_MS))
    (heard,) = run_client(bundle / MODEL, bundle / TOKENS, [np.concatenate([lead, samples(recording), tail])])
    assert answer["tokens"] == heard.symbols
    assert len(heard.symbols) >= 3


@pytest.mark.parametrize(("chunk_ms", "said"), [(320, False), (640, True)])
def test_a_model_that_needs_more_silence_than_the_program_gives_says_so(bundle, tmp_path, chunk_ms, said):
    info = read_bundle(bundle).info
    slower = info.model_copy(update={"streaming": info.streaming.model_copy(update={"chunk_ms": chunk_ms})})
    write_readme(tmp_path, slower, None)
    readme, script = (tmp_path / "README.md").read_text(), (tmp_path / "examples" / "command_line.sh").read_text()
    assert all(
        ("less than the 1040 ms" in " ".join(text.replace("#", "").split())) is said for text in (readme, script)
    )
    assert all(line[0] == "#" for line in script.splitlines()[:-2])


def test_a_name_stays_in_its_comment(bundle, tmp_path):
    odd = 'x"""\n; rm -r . `$(id)` \\'
    write_readme(tmp_path, read_bundle(bundle).info.model_copy(update={"name": odd}), None)
    for name in EXAMPLES:
        assert (tmp_path / "examples" / name).read_text().count("x_____ rm -r . __(id)_ _") == 1
    compile((tmp_path / "examples" / "sherpa_onnx_file.py").read_text(), "example", "exec")
