"""A model folder as a teacher: its posteriors are its model's, alone or in a batch, down to a frame loss of zero."""

import pytest
import soundfile
import torch

from asr_kd.corpora.manifest import Utterance
from asr_kd.errors import CheckpointError
from asr_kd.features.fbank import FEATURE_CONTRACT, fbank, num_frames
from asr_kd.files import read_json, write_json
from asr_kd.losses import DistillSettings, Objective, Shape, StudentOutput, Supervision
from asr_kd.models.conformer import Conformer
from asr_kd.models.layers import output_lens
from asr_kd.models.settings import ConformerSettings
from asr_kd.models.weights import save_model
from asr_kd.targets import Store, TargetSettings, collate, extract
from asr_kd.teachers import LocalTeacher, Teacher
from asr_kd.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary.characters(["abcdefghij"])
SECONDS = (0.9, 0.4, 1.3, 0.7)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    settings = ConformerSettings(width=32, layers=1, heads=2, feed_forward=32, kernel=5, subsampling_channels=4)
    model = Conformer(settings, len(VOCABULARY)).eval()
    model.set_normalisation(torch.full((80,), -7.0), torch.full((80,), 3.0))
    with torch.no_grad():
        model.output.weight.mul_(6.0)  # a random model is nearly uniform
    save_model(tmp_path / "teacher", model, VOCABULARY, {"note": "random"})
    return tmp_path / "teacher"


@pytest.fixture
def teacher(folder) -> Teacher:
    return LocalTeacher(folder)


def waveform(seconds: float) -> torch.Tensor:
    return torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(round(seconds * 100))) * 0.1


def test_a_batch_says_what_each_waveform_says_alone(teacher, folder):
    waveforms = [waveform(seconds) for seconds in SECONDS]
    lens = torch.tensor([len(item) for item in waveforms])
    padded = torch.full((len(SECONDS), int(lens.max())), 0.5)  # what follows an utterance must not be heard
    for row, item in enumerate(waveforms):
        padded[row, : len(item)] = item
    batch = teacher.log_probs(padded, lens)
    assert batch.lens.tolist() == output_lens(torch.tensor([num_frames(int(n)) for n in lens])).tolist()
    for row, item in enumerate(waveforms):
        alone = teacher.log_probs(item.unsqueeze(0), lens[row : row + 1])
        frames = int(alone.lens[0])
        torch.testing.assert_close(batch.log_probs[row, :frames], alone.log_probs[0, :frames], atol=1e-4, rtol=0)
        assert fbank(item).shape[0] == num_frames(len(item))


def test_audio_shorter_than_the_window_has_no_frames(teacher):
    batch = teacher.log_probs(torch.zeros(2, 800), torch.tensor([800, 10]))
    assert batch.lens.tolist() == [0, 0]


def test_says_who_it_is(teacher, folder):
    assert teacher.name == "teacher"
    assert teacher.vocabulary == VOCABULARY
    assert teacher.frame_shift_ms == 40.0
    assert teacher.features == FEATURE_CONTRACT
    assert len(teacher.sha256) == 64


def test_a_damaged_folder_is_refused(folder):
    (folder / "model.safetensors").write_bytes(b"damage")
    with pytest.raises(CheckpointError, match="SHA-256"):
        LocalTeacher(folder)


def test_stored_and_read_back_the_teacher_costs_its_own_targets_next_to_nothing(tmp_path, teacher):
    """Waveform → store → batch → loss: the whole way keeps frames, tokens and probabilities in place."""
    utterances = []
    for seconds in SECONDS:
        path = tmp_path / f"{seconds}.wav"
        soundfile.write(path, waveform(seconds).numpy(), 16_000, subtype="FLOAT")
        utterances.append(Utterance(f"u{seconds}", path, seconds, None, "nobody"))
    report = extract(teacher, utterances, TargetSettings(epsilon=0.001, max_entries=15), tmp_path / "store")
    assert report.complete
    assert not report.quarantine

    store = Store.open(tmp_path / "store", VOCABULARY, teacher.sha256)
    targets = collate([store.read(utterance.id) for utterance in utterances])
    waveforms = torch.nn.utils.rnn.pad_sequence([waveform(seconds) for seconds in SECONDS], batch_first=True)
    student = teacher.log_probs(waveforms, torch.tensor([round(seconds * 16_000) for seconds in SECONDS]))
    assert student.lens.tolist() == targets.lens.tolist()

    objective = Objective.from_settings(DistillSettings(kd_weight=1.0, selection="all"), Shape(VOCABULARY.blank_id))
    frames = int(student.lens.sum())
    own = objective(StudentOutput(student.log_probs, student.lens), Supervision(targets=targets), frames).total
    shifted = objective(
        StudentOutput(student.log_probs.roll(1, dims=1), student.lens), Supervision(targets=targets), frames
    ).total
    assert 0 <= float(own) < 0.01
    assert float(shifted) > 10 * float(own)


@pytest.mark.parametrize("card", [None, [], "random"])
def test_a_card_of_another_form_is_one_message(folder, card):
    write_json(folder / "model.json", {**read_json(folder / "model.json"), "card": card})
    with pytest.raises(CheckpointError, match=r"model.json: its card is no mapping"):
        LocalTeacher(folder)
