"""A teacher that is run in training: on the view that the student is trained on, as a store would give it."""

import pytest
import torch

from asr_kd.features.augment import Augmentation, Perturbation
from asr_kd.features.fbank import fbank, num_frames
from asr_kd.losses import DistillSettings
from asr_kd.models.weights import load_model
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.bridge import bridge
from asr_kd.teachers.ensemble import open_teacher_source
from asr_kd.teachers.settings import TeacherSource
from asr_kd.training.batch import collate_batch
from asr_kd.training.batch_sampler import plan_epoch
from asr_kd.training.dataset import SpeechDataset
from asr_kd.training.train import train
from asr_kd.training.training_job import Control
from tests.helpers.jobs import Recorder, noises
from tests.helpers.tiny_encoders import save_encoder

pytest.importorskip("transformers")

LAYERS = {"pairs": [[1, 1], [2, 2]]}


@pytest.fixture(scope="module", params=["whisper", "wav2vec2-large"])
def teacher(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / request.param
    save_encoder(request.param, folder)
    return open_teacher_source(TeacherSource(source=f"encoder:{folder}"))


@pytest.mark.parametrize("splice_share", [0.0, 1.0])
@pytest.mark.parametrize("perturbed", [False, True])
def test_the_waveform_is_the_view_of_the_features(perturbed, splice_share, tmp_path):
    perturb = Perturbation(share=1.0) if perturbed else None
    augmentation = Augmentation(speeds=(0.9, 1.1), silence_share=0.5, perturb=perturb, splice_share=splice_share)
    utterances = noises(tmp_path)[:6]
    made = SpeechDataset(utterances, [[]] * 6, 1.0, 100, perturb=perturb, with_waveforms=True)
    (batch,) = plan_epoch([u.duration for u in utterances], augmentation, 1e4, 1, 1)
    for sample in batch:
        example = made[sample]
        assert num_frames(len(example.waveform)) == example.audio_frames
        expected = fbank(example.waveform)[2:-4]
        found = example.features[example.lead_frames + 2 : example.lead_frames + example.audio_frames - 4]
        torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
    collated = collate_batch([made[sample] for sample in batch])
    assert collated.waveforms.shape == (6, int(collated.sample_lens.max()))
    assert [len(piece.waveforms) for piece in collated.pieces(2)] == [3, 3]


def test_it_trains_as_its_stored_layers_do(make_job, teacher, tmp_path):
    """Within the rounding of the store, without augmentation, on a Conformer: another width and another frame rate."""
    settings = {"epochs": 2, "average_best": 1, "augmentation": Augmentation(spec_augment=None)}

    def loss(targets: str, **changes) -> float:
        distill = DistillSettings(kd_weight=1.0, targets=targets, objectives={"representation": LAYERS})
        job = make_job(settings=settings, distill=distill, **changes)
        recorder = Recorder()
        train(job, tmp_path / targets, Control(progress=recorder))
        load_model(tmp_path / targets / "model")
        return float(next(line for line in reversed(recorder.lines) if "loss" in line).rpartition("loss ")[2])

    job = make_job()
    bridged = bridge(teacher, job.vocabulary)
    extract(bridged, job.train_utterances, TargetSettings(layers=(1, 2)), tmp_path / "store")
    store = Store.open(tmp_path / "store", vocabulary=job.vocabulary)
    assert loss("dense", dense_teacher=bridged) == pytest.approx(loss("stored", store=store), rel=0.02)
