"""Audio without transcripts beside a corpus: labelled where a student is trained on it, and not otherwise."""

import json
import os
from pathlib import Path

import pytest
import soundfile

from asr_kd.corpora.corpus import read_prepared
from asr_kd.models.weights import load_model
from asr_kd.recipe.settings import load_recipe
from asr_kd.targets import Store
from asr_kd.targets.pseudo_labelling import in_share
from tests.helpers.tiny_models import noise_speech
from tests.helpers.tiny_run import RECIPE, command, one_line

ON_UNTRANSCRIBED = "students.student-kd.distill.untranscribed=true"


@pytest.fixture
def recordings(tmp_path) -> Path:
    folder = tmp_path / "recordings" / "somebody"
    folder.mkdir(parents=True)
    for index in range(4):
        soundfile.write(folder / f"noise-{index}.wav", noise_speech(1.5, seed=index).numpy(), 16_000)
    soundfile.write(folder / "blip.wav", noise_speech(0.2, seed=9).numpy(), 16_000)
    return folder.parent


def beside(recordings: Path) -> str:
    return f"untranscribed={{folders: {recordings}, max_excluded_share: 0.5}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["untranscribed={folders: there}"], "no student has distill.untranscribed: true"),
        (
            [ON_UNTRANSCRIBED],
            "everything in the corpus is transcribed; name folders of further audio under untranscribed",
        ),
        ([ON_UNTRANSCRIBED, "students.student-kd.distill.kd_weight=0"], "untranscribed: true without an objective"),
        (["untranscribed={folders: []}", ON_UNTRANSCRIBED], "untranscribed.folders"),
        (["untranscribed={folder: x}", ON_UNTRANSCRIBED], "did you mean 'folders'?"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, overrides, message):
    assert message in one_line(command("run", str(RECIPE), f"work_dir={tmp_path / 'run'}", *overrides))
    assert not (tmp_path / "run").exists()


def test_it_is_labelled_where_a_student_is_trained_on_it(recordings):
    for overrides, expected in (
        ([beside(recordings), ON_UNTRANSCRIBED], True),
        ([beside(recordings), ON_UNTRANSCRIBED, "students.student-kd.distill.kd_weight=1"], True),
    ):
        assert load_recipe(RECIPE, overrides).labels_untranscribed("teacher") is expected
    assert not load_recipe(RECIPE, []).labels_untranscribed("teacher")


def test_one_student_is_trained_on_it_and_the_others_stay_as_they_are(copy, recordings):
    own = json.loads(copy.file("manifests", "train.jsonl").read_text().splitlines()[0])
    os.symlink(own["audio"], recordings / Path(own["audio"]).name)
    outcome = copy.command("run", beside(recordings), ON_UNTRANSCRIBED, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert outcome.did == [
        "prepare: starts",
        "teacher: skipped",
        "extract teacher: starts",
        "student student-hard: skipped",
        "student student-kd: starts",
    ]
    corpus = read_prepared(copy.work_dir)
    assert [(u.id, u.text, u.speaker) for u in corpus.untranscribed] == [
        (f"somebody-noise-{index}", None, "somebody") for index in range(4)
    ]
    assert len(corpus.train) == 40
    reasons = {item.id: item.reason for item in corpus.excluded}
    assert "less than min_seconds" in reasons["somebody-blip"]
    assert reasons[Path(own["audio"]).stem] == "is audio of the corpus itself"
    assert "untranscribed: 4 utterances" in outcome.out
    store = Store.open(copy.file("targets", "teacher"))
    assert all(utterance.id in store for utterance in corpus.untranscribed)
    assert load_model(copy.file("students", "student-kd", "model")).card["training_utterances"] == 44
    again = copy.command("run", beside(recordings), ON_UNTRANSCRIBED, "--to", "student")
    assert {line.split(": ")[1] for line in again.did} == {"skipped"}


def test_a_student_uses_the_transcripts_of_a_share_of_the_corpus(copy):
    share = "students.student-hard.transcript_share=0.4"
    outcome = copy.command("run", share, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert outcome.did[-2:] == ["student student-hard: starts", "student student-kd: skipped"]
    train = read_prepared(copy.work_dir).train
    used = load_model(copy.file("students", "student-hard", "model")).card["training_utterances"]
    assert used == sum(in_share(utterance.id, 0.4) for utterance in train)
    assert 0 < used < len(train)


def test_a_share_without_a_transcript_is_refused(copy):
    outcome = copy.command("run", "students.student-hard.transcript_share=0.001", "--to", "student")
    assert outcome.code == 1
    assert "transcript_share 0.001 holds none of 40 training utterances" in one_line(outcome)


def test_audio_beyond_that_share_is_trained_on_where_no_transcript_is_needed(copy):
    size = len(read_prepared(copy.work_dir).train)
    share = "students.student-kd.transcript_share=0.4"
    for distill in ("kd_weight=1", "untranscribed=true"):
        outcome = copy.command("run", share, f"students.student-kd.distill.{distill}", "--to", "student")
        assert outcome.code == 0, outcome.err
        assert load_model(copy.file("students", "student-kd", "model")).card["training_utterances"] == size
