"""What is taught of hypotheses, and what is left out; students that learn from them; from letters to subwords."""

import json
import math
from dataclasses import replace

import pytest
import torch

from asr_kd.errors import StoppedEarly, TrainingError
from asr_kd.losses import DistillSettings, Objective, References, Shape
from asr_kd.losses.base import hypotheses_of
from asr_kd.models.weights import load_model
from asr_kd.targets.hypotheses import HypothesisStore, TextHypothesis
from asr_kd.targets.importing import import_hypotheses
from asr_kd.targets.nbest import NbestSettings, extract_hypotheses
from asr_kd.teachers.local import LocalTeacher
from asr_kd.text.vocabulary import Vocabulary
from asr_kd.training.batch import Batch, WeightedHypothesis, collate_hypotheses
from asr_kd.training.selection import select
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import Recorder, stop_after, weights_of

SEQUENCE = DistillSettings(level="sequence", kd_weight=0.5, hypotheses=2)
LETTERS = Vocabulary.characters(["ABCDEF"])


class Stored(dict):
    """Hypotheses without a folder."""

    sha256 = "stored"


@pytest.fixture
def lessons_of(make_job):
    """Selects from the hypotheses of one utterance."""

    def selected(utterance, hypotheses, settings=SEQUENCE):
        settings = settings.model_copy(update={"kd_weight": 1.0})
        stored = Stored({utterance.id: hypotheses})
        job = make_job(train=[utterance], distill=settings, hypotheses=stored, vocabulary=LETTERS)
        return select(job, Objective.from_settings(settings, Shape(blank_id=0)))

    return selected


def test_the_best_that_can_be_taught_are_taught_by_their_scores(lessons_of, utterances):
    found = lessons_of(
        utterances[0],
        [
            TextHypothesis("ABBA", -1.0),
            TextHypothesis("XYZ", -1.5),
            TextHypothesis("FACE", -2.0),
            TextHypothesis("CAB", -3.0),
        ],
    )
    [[first, second]] = found.hypotheses
    assert list(first.tokens) == LETTERS.encode("ABBA")
    assert list(second.tokens) == LETTERS.encode("FACE")
    assert first.weight == pytest.approx(1 / (1 + math.exp(-1)))
    assert first.weight + second.weight == pytest.approx(1.0)
    assert found.dropped == {"characters outside the vocabulary": 1}
    assert "2 hypotheses of 1 utterances; left out: 1 characters outside the vocabulary" in found.summary()


def test_hypotheses_far_from_the_transcript_or_too_long_are_left_out(lessons_of, utterances):
    utterance = replace(utterances[0], text="BAD CAB")
    settings = SEQUENCE.model_copy(update={"max_hypothesis_wer": 0.5})
    given = [TextHypothesis("FACE FACE", -1.0), TextHypothesis("BAD CAB", -2.0), TextHypothesis("BAD CAFE", -3.0)]
    [taught] = lessons_of(utterance, given, settings).hypotheses
    assert [list(item.tokens) for item in taught] == [LETTERS.encode(text) for text in ("BAD CAB", "BAD CAFE")]
    [taught] = lessons_of(replace(utterance, text=None), given, settings).hypotheses
    assert list(taught[0].tokens) == LETTERS.encode("FACE FACE")
    nothing = lessons_of(utterance, given[:1], settings)
    assert nothing.utterances == []
    assert "max_hypothesis_wer" in nothing.excluded[0]["reason"]
    short = lessons_of(replace(utterance, duration=0.34), given)
    assert [len(item.tokens) for item in short.hypotheses[0]] == [7]
    assert short.dropped["too long for CTC in its audio"] == 2


@pytest.mark.parametrize(("hypotheses", "reason"), [([], "recognised no word"), (None, "no hypotheses")])
def test_utterances_without_hypotheses_are_listed(lessons_of, utterances, hypotheses, reason):
    found = lessons_of(utterances[0], hypotheses)
    assert found.utterances == []
    assert reason in found.excluded[0]["reason"]
    assert found.excluded[0]["id"] == utterances[0].id


def test_batches_and_their_pieces():
    flat = collate_hypotheses(
        [[WeightedHypothesis([1, 2], 0.5), WeightedHypothesis([3], 0.5)], [], [WeightedHypothesis([4, 5, 6], 1.0)]]
    )
    assert flat.tokens.tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert flat.lens.tolist() == [2, 1, 3]
    assert flat.rows.tolist() == [0, 0, 2]
    last = hypotheses_of(flat, [2, 1], 3)
    assert (last.tokens.tolist(), last.rows.tolist(), last.weights.tolist()) == ([[4, 5, 6]], [0], [1.0])
    batch = Batch(
        ids=["a", "b", "c"],
        features=torch.zeros(3, 8, 80),
        feature_lens=torch.tensor([8, 8, 8]),
        audio_lens=torch.tensor([8, 8, 8]),
        references=References(torch.zeros(3, 0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        targets=None,
        hypotheses=flat,
    )
    first, second = batch.pieces(2)
    assert (first.ids, second.ids) == (["a", "c"], ["b"])
    assert first.hypotheses is not None
    assert first.hypotheses.rows.tolist() == [0, 0, 1]
    assert second.hypotheses is not None
    assert second.hypotheses.rows.tolist() == []
    assert batch.to(torch.device("cpu")).hypotheses.rows.tolist() == [0, 0, 2]


@pytest.fixture
def imported(utterances, tmp_path):
    """Hypotheses of the training utterances, one of them wrong."""
    rows = [
        {"id": u.id, "nbest": [{"text": u.text, "score": -0.2}, {"text": "BAD", "score": -1.9}]} for u in utterances
    ]
    source = tmp_path / "hyps.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows[:9]))
    import_hypotheses(source, utterances[:9], tmp_path / "hypotheses", "librispeech")
    return HypothesisStore.open(tmp_path / "hypotheses", normalizer="librispeech")


def test_learns_without_transcripts_and_resumes_exactly(make_job, utterances, imported, tmp_path):
    untranscribed = [replace(u, text=None) for u in utterances[:9]]
    distill = DistillSettings(kd_weight=1.0, level="sequence")
    job = make_job(train=untranscribed, distill=distill, hypotheses=imported)
    recorder = Recorder()
    train(job, tmp_path / "whole", Control(progress=recorder))
    assert any("hypotheses of 9 utterances" in line for line in recorder.lines)
    with pytest.raises(StoppedEarly):
        train(job, tmp_path / "pieces", Control(should_stop=stop_after(3)))
    train(job, tmp_path / "pieces", Control())
    assert weights_of(tmp_path / "pieces") == weights_of(tmp_path / "whole")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "curve.jsonl").read_text().splitlines()]
    assert all(math.isfinite(row["train_loss"]) for row in rows)


def test_one_hypothesis_that_is_the_transcript_teaches_what_the_transcript_does(make_job, imported, tmp_path):
    plain = {"precision": "fp32", "epochs": 1}
    curves = []
    for name, distill in (("labels", None), ("taught", DistillSettings(level="sequence", kd_weight=0.7, hypotheses=1))):
        job = make_job(distill=distill, hypotheses=imported, settings=plain)
        train(job, tmp_path / name, Control())
        curves.append(json.loads((tmp_path / name / "curve.jsonl").read_text().splitlines()[0])["train_loss"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_the_absence_of_hypotheses_is_named(make_job, tmp_path):
    with pytest.raises(TrainingError, match="targets import"):
        train(make_job(distill=SEQUENCE), tmp_path / "run", Control())


@pytest.mark.slow
def test_hypotheses_of_letters_train_a_student_of_subwords(make_job, utterances, tmp_path):
    """Hypotheses of a teacher of characters; tests/export runs subwords in the client."""
    pytest.importorskip("flashlight")
    teacher = LocalTeacher(train(make_job(name="teacher", settings={"epochs": 1}), tmp_path / "teacher", Control()))
    nbest = NbestSettings(count=3, beam_size=10, batch_seconds=5.0)
    report = extract_hypotheses(teacher, utterances[:9], nbest, tmp_path / "nbest", "librispeech")
    assert report.complete
    store = HypothesisStore.open(tmp_path / "nbest", normalizer="librispeech", source_sha256=teacher.sha256)
    texts = [item.text for id_ in store for item in store[id_]]
    assert len(texts) > 9
    words = Vocabulary.subwords([*texts, *(u.text for u in utterances)], 14)
    assert words.sha256 != teacher.vocabulary.sha256
    untranscribed = [replace(u, text=None) for u in utterances[:9]]
    distill = DistillSettings(kd_weight=1.0, level="sequence", hypotheses=3)
    settings = {"epochs": 1, "average_best": 1}
    job = make_job(train=untranscribed, distill=distill, hypotheses=store, vocabulary=words, settings=settings)
    model = train(job, tmp_path / "student", Control())
    assert load_model(model).vocabulary == words
