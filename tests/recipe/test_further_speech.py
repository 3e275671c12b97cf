"""Further transcribed speech: teachers, and students of transcripts, may be trained on it; it is not labelled."""

import json
from pathlib import Path

import pytest
import soundfile

from asr_kd.corpora.corpus import read_prepared
from asr_kd.models.weights import load_model
from asr_kd.targets import Store
from tests.helpers.tiny_models import noise_speech
from tests.helpers.tiny_run import RECIPE, command, one_line

ON = "teachers.teacher.further_speech=true"
STUDENT_ON = "students.student-hard.further_speech=true"


@pytest.fixture
def manifest(tmp_path) -> Path:
    rows = []
    for index in range(3):
        audio = tmp_path / f"further-{index}.wav"
        soundfile.write(audio, noise_speech(2.0, seed=index).numpy(), 16_000)
        rows.append({"id": audio.stem, "audio": audio.name, "duration": 2.0, "text": "GO ON", "speaker": "machine"})
    path = tmp_path / "further.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["further_speech={manifests: there.jsonl}"], "no teacher or student has further_speech: true"),
        ([ON], "teachers.teacher.further_speech is true without further_speech.manifests"),
        ([STUDENT_ON], "students.student-hard.further_speech is true without further_speech.manifests"),
        (["students.student-kd.further_speech=true"], "no teacher labels that speech"),
        (["further_speech={manifests: []}", ON], "further_speech.manifests"),
        (["further_speech={manifest: x}", ON], "did you mean 'manifests'?"),
    ],
)
def test_settings_without_effect_are_refused(tmp_path, overrides, message):
    assert message in one_line(command("run", str(RECIPE), f"work_dir={tmp_path / 'run'}", *overrides))
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_trained_on_it_and_labels_the_corpus_alone(copy, manifest):
    further = f"further_speech={{manifests: {manifest}}}"
    own = json.loads(copy.file("manifests", "train.jsonl").read_text().splitlines()[0])
    with manifest.open("a") as file:
        file.write(json.dumps({**own, "id": "again"}) + "\n")
    vocabulary = copy.file("manifests", "tokens.txt").read_text()
    outcome = copy.command("run", further, ON, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert outcome.did == [
        "prepare: starts",
        "teacher: starts",
        "extract teacher: starts",
        "student student-hard: skipped",
        "student student-kd: starts",
    ]
    assert "further_speech: 3 utterances" in outcome.out
    corpus = read_prepared(copy.work_dir)
    assert [u.id for u in corpus.further_speech] == [f"further-{index}" for index in range(3)]
    assert {item.id: item.reason for item in corpus.excluded}["again"] == "is audio of the corpus itself"
    card = load_model(copy.file("teachers", "teacher", "model")).card
    assert (card["training_utterances"], card["further_speech_hours"]) == (len(corpus.train) + 3, 0.0)
    store = Store.open(copy.file("targets", "teacher"))
    assert all(utterance.id in store for utterance in corpus.train)
    assert "further-0" not in store
    assert load_model(copy.file("students", "student-kd", "model")).card["training_utterances"] == len(corpus.train)
    assert copy.file("manifests", "tokens.txt").read_text() == vocabulary  # that of the corpus alone
    again = copy.command("run", further, ON, "--to", "student")
    assert {line.split(": ")[1] for line in again.did} == {"skipped"}


def test_a_student_of_transcripts_is_trained_on_it(copy, manifest):
    outcome = copy.command("run", f"further_speech={{manifests: {manifest}}}", STUDENT_ON, "--to", "student")
    assert outcome.code == 0, outcome.err
    assert outcome.did == [
        "prepare: starts",
        "teacher: skipped",
        "extract teacher: skipped",
        "student student-hard: starts",
        "student student-kd: skipped",
    ]
    card = load_model(copy.file("students", "student-hard", "model")).card
    corpus = read_prepared(copy.work_dir)
    assert (card["training_utterances"], card["further_speech_hours"]) == (len(corpus.train) + 3, 0.0)


def test_speech_that_is_missing_is_one_message(copy, manifest, tmp_path):
    (tmp_path / "further-1.wav").unlink()
    outcome = copy.command("prepare", f"further_speech={{manifests: {manifest}}}", ON)
    assert outcome.code == 1
    assert "further-1" in one_line(outcome)
    assert "raise further_speech.max_excluded_share" in one_line(outcome)


def test_transcripts_that_the_vocabulary_cannot_spell_stop_prepare(copy, manifest):
    manifest.write_text(manifest.read_text().replace("GO ON", "GÖ ÖN"))
    outcome = copy.command("prepare", f"further_speech={{manifests: {manifest}}}", ON)
    assert outcome.code == 1
    assert "3 of 3 utterances cannot be used" in one_line(outcome)
    assert "raise further_speech.max_excluded_share" in one_line(outcome)
