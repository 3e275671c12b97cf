"""The phone guide: every name in its Kotlin and Swift is in the client's C interface; its script measures a bundle."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.helpers.tiny_models import noise_speech

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "guides" / "phones.md").read_text(encoding="utf-8")


def header() -> str:
    found = importlib.util.find_spec("sherpa_onnx")
    path = (
        Path(found.origin).parent / "include" / "sherpa-onnx" / "c-api" / "c-api.h" if found and found.origin else None
    )
    if path is None or not path.is_file():
        pytest.skip("sherpa-onnx and its headers are not installed")
    return path.read_text(encoding="utf-8")


def fields(text: str, struct: str) -> set[str]:
    body = re.search(rf"typedef struct {struct} \{{(.*?)\}} {struct};", text, re.S)
    assert body, f"no struct {struct}"
    return set(re.findall(r"(\w+);", body[1]))


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def code(language: str) -> str:
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", GUIDE, re.S))


def calls(text: str, pattern: str, separator: str) -> list[tuple[str, list[str]]]:
    """Constructors and the names of their arguments, nested ones left to themselves."""
    found = []
    for match in re.finditer(pattern, text):
        depth, start, arguments = 0, match.end(), ""
        for character in text[start - 1 :]:
            depth += (character == "(") - (character == ")")
            arguments += character if depth == 1 else ""
            if depth == 0:
                break
        found.append((match[1], re.findall(rf"(\w+)\s*{separator}(?!=)", arguments)))
    return found


@pytest.mark.parametrize(
    ("language", "pattern", "separator"),
    [
        ("kotlin", r"\b((?:Online|Feature)\w*Config)\(", "="),
        ("swift", r"\bsherpaOnnx((?:Online|Feature)\w*Config)\(", ":"),
    ],
)
def test_settings_are_those_of_the_client(language, pattern, separator):
    text, found = header(), calls(code(language), pattern, separator)
    assert len(found) >= 4
    for name, arguments in found:
        known = fields(text, f"SherpaOnnx{name}")
        assert arguments, name
        assert {snake(argument) for argument in arguments} <= known, name


def test_methods_are_those_of_the_client():
    text = header()
    for method, function in {
        "createStream": "SherpaOnnxCreateOnlineStream",
        "acceptWaveform": "SherpaOnnxOnlineStreamAcceptWaveform",
        "inputFinished": "SherpaOnnxOnlineStreamInputFinished",
        "isReady": "SherpaOnnxIsOnlineStreamReady",
        "decode": "SherpaOnnxDecodeOnlineStream",
        "getResult": "SherpaOnnxGetOnlineStreamResult",
        "isEndpoint": "SherpaOnnxOnlineStreamIsEndpoint",
        "reset": "SherpaOnnxOnlineStreamReset",
    }.items():
        assert f"{method}(" in code("kotlin")
        assert function in text
    for language in ("kotlin", "swift"):  # the end of a recording
        assert "inputFinished(" in code(language)


@pytest.mark.slow
def test_the_script_measures_a_bundle(forms, model_folder, tmp_path):
    program = shutil.which("sherpa-onnx", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("sherpa-onnx's program is not installed (sherpa-onnx-bin)")
    soundfile.write(tmp_path / "speech.wav", noise_speech(120.0).numpy(), 16_000)
    words = [
        "sh",
        str(ROOT / "benchmarks" / "client_program.sh"),
        str(forms),
        str(tmp_path / "speech.wav"),
        program,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(r"real-time factor: \d", done.stdout), done.stdout
    assert re.search(r"peak memory: [1-9]\d* MB", done.stdout), done.stdout
    assert re.search(r"first word: at most \d+ ms", done.stdout), done.stdout
    words[3] = str(tmp_path / "missing.wav")
    failed = subprocess.run(
        [*words[:2], str(model_folder), *words[3:]], capture_output=True, text=True, check=False, timeout=600
    )
    assert failed.returncode != 0
