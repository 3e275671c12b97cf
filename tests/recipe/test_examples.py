"""recipes/examples: short, and they run on a store and learn from it."""

import re
import runpy
from pathlib import Path

import pytest
import soundfile

from asr_kd.corpora.manifest import Utterance, write_manifest
from asr_kd.errors import TargetsError
from asr_kd.targets import TargetSettings, extract
from asr_kd.teachers.local import LocalTeacher
from tests.helpers.tiny_models import VOCABULARY, noise_speech, save_tiny_model
from tests.helpers.tiny_run import ROOT

EXAMPLES = sorted((ROOT / "recipes" / "examples").glob("*.py"))
TEXTS = ("AB", "BAD CAB", "A", "FACE", "CAGE", "BAG", "DAB A BIG", "HI", "KID", "BED")


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory) -> Path:
    """What a recipe leaves behind when it has run as far as extract: manifests and the soft targets of its teacher."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "audio").mkdir()
    utterances = []
    for number, text in enumerate(TEXTS):
        path = folder / "audio" / f"u{number}.wav"
        soundfile.write(path, noise_speech(1.0 + 0.1 * number, seed=number).numpy(), 16_000)
        utterances.append(Utterance(f"u{number}", path, 1.0 + 0.1 * number, text, "nobody"))
    (folder / "manifests").mkdir()
    write_manifest(folder / "manifests" / "train.jsonl", utterances)
    VOCABULARY.save(folder / "manifests" / "tokens.txt")
    teacher = LocalTeacher(save_tiny_model(folder / "teacher", streaming=False))
    extract(teacher, utterances, TargetSettings(fidelity_utterances=2), folder / "targets" / "teacher")
    return folder


def test_there_are_examples_and_they_are_short():
    assert [path.name for path in EXAMPLES] == ["lhotse_dataloader.py", "plain_pytorch.py", "speechbrain_brain.py"]
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 70 for path in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_learns(example, work_dir, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(example), str(work_dir), "--epochs", "8"])
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    losses = [float(found) for found in re.findall(r"^epoch \d+: loss (\d+\.\d+)", printed, re.MULTILINE)]
    assert len(losses) == 8, printed
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_without_a_store_the_command_that_makes_one_is_named(example, tmp_path, monkeypatch):
    (tmp_path / "manifests").mkdir()
    VOCABULARY.save(tmp_path / "manifests" / "tokens.txt")
    monkeypatch.setattr("sys.argv", [str(example), str(tmp_path)])
    with pytest.raises(TargetsError, match="asr-kd extract"):
        runpy.run_path(str(example), run_name="__main__")
