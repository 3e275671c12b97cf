"""The guide to untranscribed calls, followed: its recipe is read, and its corpus prepared."""

import json
import re
from pathlib import Path

import pytest

from asr_kd.corpora.manifest import Utterance
from asr_kd.recipe.settings import load_recipe
from tests.corpora.test_calls import real_speech, write_call
from tests.helpers.tiny_run import command

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "calls.md"


def test_the_recipe_of_the_guide_prepares_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = GUIDE.read_text(encoding="utf-8")
    recipe = next(block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if block.startswith("name:"))
    Path("calls.yaml").write_text(recipe, encoding="utf-8")
    settings = load_recipe(Path("calls.yaml"), [])
    assert not settings.trained_on_transcripts
    augmented = re.search(r"train: \{augmentation: (.*)\}\n```", text)[1]
    changed = load_recipe(Path("calls.yaml"), [f"students.student-kd.train.augmentation={augmented}"])
    assert changed.students["student-kd"].train.augmentation.perturb.telephone_share == 0.5

    speech = real_speech("an4")
    row = json.loads(re.search(r"```json\n(.*?)\n```", text, re.DOTALL)[1])
    for folder, utterances in (("train/agent", speech[:40]), ("test", speech[40:80])):
        (Path("calls") / folder).mkdir(parents=True)
        segments = write_call(Path("calls") / folder / "call7.wav", utterances)
    rows = [{**row, **as_row(segment)} for segment in segments]
    assert {*rows[0]} == {*row}
    for name, chosen in (("dev", rows[::2]), ("test", rows[1::2])):
        lines = "".join(json.dumps(one) + "\n" for one in chosen)
        (Path("calls") / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    done = command("prepare", "calls.yaml")
    assert done.code == 0, done.err
    assert "2 speakers" in done.out
    checked = command("check", "calls.yaml")
    assert "No problems found." in checked.out, checked.out


def as_row(segment: Utterance) -> dict[str, object]:
    """Return a segment as the guide writes it."""
    return {
        "id": segment.id,
        "start": segment.start,
        "duration": segment.duration,
        "channels": segment.channels,
        "speaker": segment.speaker,
        "text": segment.text,
    }


@pytest.mark.parametrize("name", ["mini-public", "train-clean-100", "960h", "label-free"])
def test_sample_recipes_use_the_objective_that_the_results_recommend(name):
    path = GUIDE.parents[2] / "recipes" / "LibriSpeech" / f"{name}.yaml"
    students = [student for student in load_recipe(path, []).students.values() if student.distill is not None]
    assert students
    for student in students:
        assert [*student.distill.terms] == ["sequence"]
        assert student.distill.kd_weight == (1.0 if name == "label-free" else 0.75)
