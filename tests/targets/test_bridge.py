"""The wrapped teacher: lengths, identity, what it records, and a real model's posteriors through it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.corpora.recordings import read_utterance
from asr_kd.errors import RecipeError, TargetsError
from asr_kd.features.augment import speed_perturb
from asr_kd.features.fbank import fbank
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.types import FrameGrid
from asr_kd.targets import Store, extract, variant_name
from asr_kd.targets.bridge import STUDENT_GRID, BridgedTeacher, BridgeSettings, bridge, student_frames
from asr_kd.teachers import LocalTeacher
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.fake_teacher import FakeTeacher
from tests.helpers.tiny_models import noise_speech, save_tiny_model, tiny_model

WAV2VEC2 = Vocabulary(("<s>", "<blk>", "|", *"abcd"))
STUDENT = Vocabulary.characters(["ABCD"])


class Wav2Vec2Like:
    """Emits "a|bb" at set times on wav2vec2's frames for any audio; the first b lasts."""

    def __init__(self) -> None:
        self.name, self.sha256, self.vocabulary = "like-wav2vec2", "b" * 64, WAV2VEC2
        self.frame_shift_ms, self.frame_offset_ms = 20.0, 12.5
        self.features: dict[str, Any] = {"kind": "raw", "sample_rate": 16_000}
        self.count: Callable[[int], int] = lambda samples: max((samples - 400) // 320 + 1, 0)

    def log_probs(self, waveforms: torch.Tensor, sample_lens: torch.Tensor) -> DensePosteriors:
        lens = torch.tensor([self.count(samples) for samples in sample_lens.tolist()])
        probs = torch.full((len(lens), max(int(lens.max()), 0), len(WAV2VEC2)), 0.01)
        probs[..., 1] = 0.94
        for frame, token in [(3, 3), (8, 2), (14, 4), (15, 4), (22, 4)]:
            probs[:, frame : frame + 1, [1, token]] = torch.tensor([0.05, 0.9])
        return DensePosteriors(probs.log(), lens)


def compute(teacher, seconds: list[float]) -> DensePosteriors:
    lens = torch.tensor([round(16_000 * item) for item in seconds])
    return teacher.log_probs(torch.zeros(len(lens), int(lens.max())), lens)


def test_a_teacher_that_fits_is_left_alone():
    teacher = FakeTeacher()
    grid = FrameGrid(teacher.frame_shift_ms, teacher.frame_offset_ms)
    assert bridge(teacher, teacher.vocabulary, grid) is teacher
    assert bridge(teacher, teacher.vocabulary) is not teacher, "its frames are centred elsewhere"


def test_a_teacher_of_the_same_subwords_without_their_model_gets_the_students_vocabulary():
    """Otherwise its store would be refused in training as one over another vocabulary."""

    class Fits(FakeTeacher):
        def log_probs(self, waveforms, sample_lens):
            return super().log_probs(waveforms, sample_lens)._replace(lens=student_frames(sample_lens))

    student = Vocabulary.subwords(["abba cab", "bad dab"], 12)
    teacher = Fits()
    teacher.vocabulary, teacher.frame_offset_ms = Vocabulary(student.symbols), STUDENT_GRID.offset_ms
    assert teacher.vocabulary.sha256 != student.sha256
    bridged = bridge(teacher, student)
    assert bridged.vocabulary.sha256 == student.sha256
    waveforms, lens = torch.randn(2, 16_000), torch.tensor([16_000, 9_000])
    computed, own = bridged.log_probs(waveforms, lens), teacher.log_probs(waveforms, lens)
    assert torch.equal(computed.lens, own.lens)
    for row, frames in enumerate(own.lens.tolist()):
        torch.testing.assert_close(computed.log_probs[row, :frames], own.log_probs[row, :frames])
    teacher.vocabulary = student
    assert bridge(teacher, student) is teacher


def test_posteriors_are_in_the_students_vocabulary_and_frames():
    bridged = bridge(Wav2Vec2Like(), STUDENT)
    computed = compute(bridged, [0.6, 1.0])
    assert computed.lens.tolist() == [14, 24]
    assert bridged.vocabulary == STUDENT
    assert (bridged.frame_shift_ms, bridged.frame_offset_ms) == (40.0, 35.0)
    best = computed.log_probs[1].argmax(-1).tolist()
    # Centres 72.5, 172.5, 292.5 and 312.5, 452.5 ms, in cells that begin at 15, 55, 95 …
    emitted = {frame: STUDENT.symbols[token] for frame, token in enumerate(best) if token != STUDENT.blank_id}
    assert emitted == {1: "A", 3: "▁", 6: "B", 7: "B", 10: "B"}
    torch.testing.assert_close(computed.log_probs.exp().sum(-1), torch.ones(2, 24))
    assert bridged.unmapped_mass == pytest.approx(0.01), "of <s>"


def test_lengths_are_the_students_own_rule_to_the_frame():
    """The rule is compared with what a model really gives."""
    model = tiny_model(streaming=False)
    for samples in range(1000, 6000, 331):
        features = fbank(noise_speech(samples / 16_000)[:samples])
        given = model(features.unsqueeze(0), torch.tensor([len(features)])).lens if len(features) >= 7 else [0]
        assert int(student_frames(torch.tensor([samples]))) == int(given[0])


def test_a_teacher_of_other_audio_is_refused():
    teacher = Wav2Vec2Like()
    teacher.count = lambda samples: samples // 160  # declares 20 ms and gives one every 10
    with pytest.raises(TargetsError, match=r"100 frames .* and the student's 24 of the same audio"):
        compute(bridge(teacher, STUDENT), [1.0])


def test_the_identity_covers_teacher_vocabulary_frames_and_strategy():
    other = Wav2Vec2Like()
    other.sha256 = "c" * 64
    late = Wav2Vec2Like()
    late.frame_offset_ms = 20.0
    made = [
        bridge(Wav2Vec2Like(), STUDENT),
        bridge(other, STUDENT),
        bridge(late, STUDENT),
        bridge(Wav2Vec2Like(), Vocabulary(tuple(reversed(STUDENT.symbols)))),
        bridge(Wav2Vec2Like(), STUDENT, FrameGrid(40.0, 40.0)),
        bridge(Wav2Vec2Like(), STUDENT, settings=BridgeSettings(strategy="mean")),
        bridge(Wav2Vec2Like(), STUDENT, settings=BridgeSettings(symbols={"a": "B", "b": "A"})),
    ]
    assert len({teacher.sha256 for teacher in made}) == len(made)
    assert bridge(Wav2Vec2Like(), STUDENT).sha256 == made[0].sha256


def test_the_bridge_is_recorded_beside_the_teachers_features():
    features = bridge(Wav2Vec2Like(), STUDENT).features
    assert features["sample_rate"] == 16_000
    record = features["bridge"]
    assert record["teacher_sha256"] == "b" * 64
    assert record["from"] == {"frame_shift_ms": 20.0, "frame_offset_ms": 12.5}
    assert record["to"] == {"frame_shift_ms": 40.0, "frame_offset_ms": 35.0}
    assert record["strategy"] == "spikes_apart"
    assert record["symbols"]["renamed"] == {"|": "▁", **{letter: letter.upper() for letter in "abcd"}}
    assert record["symbols"]["to_blank"] == ["<s>"]


def test_a_real_model_with_its_letters_renamed_gives_the_same(tmp_path):
    """The same frames, another spelling: posteriors are permuted and nothing else."""
    teacher = LocalTeacher(save_tiny_model(tmp_path / "model", streaming=False))
    student = Vocabulary(tuple(sorted(teacher.vocabulary.symbols)))
    bridged = bridge(teacher, student)
    assert isinstance(bridged, BridgedTeacher)
    waveforms = torch.stack([noise_speech(1.3), noise_speech(1.3, seed=1)])
    lens = torch.tensor([20_800, 15_000])
    own, ours = teacher.log_probs(waveforms, lens), bridged.log_probs(waveforms, lens)
    assert ours.lens.tolist() == own.lens.tolist()
    columns = [teacher.vocabulary.symbols.index(symbol) for symbol in student.symbols]
    for row, length in enumerate(own.lens.tolist()):
        torch.testing.assert_close(ours.log_probs[row, :length], own.log_probs[row, :length, columns])


def test_a_store_of_a_bridged_teacher_is_the_students(corpus, settings, tmp_path):
    """In its vocabulary, at its frame shift, and with as many frames as its student has at every speed."""
    bridged = bridge(Wav2Vec2Like(), STUDENT)
    report = extract(bridged, corpus, settings, tmp_path / "store")
    assert report.complete
    assert report.quarantine == ()
    store = Store.open(tmp_path / "store", STUDENT, bridged.sha256, frame_shift_ms=40.0)
    assert store.info.features["bridge"]["strategy"] == "spikes_apart"
    for utterance in corpus:
        for speed in settings.speeds:
            samples = speed_perturb(read_utterance(utterance), speed).shape[0]
            store.read(utterance.id, variant_name(speed), num_frames=int(student_frames(torch.tensor([samples]))))


def test_settings_refuse_an_unknown_strategy():
    with pytest.raises(RecipeError, match="strategy"):
        parse_settings(BridgeSettings, {"strategy": "median"}, "recipe")
    assert FrameGrid(40.0, 35.0) == STUDENT_GRID
