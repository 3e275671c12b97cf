"""A teacher without enough memory: batches in halves, streaming models in chunks, and an error that names the rest."""

import pytest
import torch

from asr_kd.errors import TargetsError
from asr_kd.models.acoustic_model import AcousticModel
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, Streaming
from asr_kd.models.weights import save_model
from asr_kd.targets import Store, extract
from asr_kd.targets.stored_arrays import run_teacher
from asr_kd.teachers import LocalTeacher
from asr_kd.teachers.windows import WindowedTeacher
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.fake_teacher import FakeTeacher
from tests.helpers.tiny_teachers import near_sighted, waveforms

VOCABULARY = Vocabulary.characters(["abcdefghij"])
SHAPE = {"width": 32, "layers": 2, "heads": 2, "feed_forward": 32, "kernel": 5, "subsampling_channels": 4}


def too_large():
    """The allocator's own error."""
    torch.empty(1 << 60, dtype=torch.uint8)


class SmallMemory(FakeTeacher):
    """Memory for so many samples at once, padding included."""

    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def log_probs(self, waveforms, sample_lens):
        if waveforms.numel() > self.samples:
            too_large()
        return super().log_probs(waveforms, sample_lens)


def test_batches_are_computed_in_halves(tmp_path, corpus, settings):
    longest = max(utterance.duration for utterance in corpus)
    extract(FakeTeacher(), corpus, settings, tmp_path / "whole")
    teacher = SmallMemory(int(longest / min(settings.speeds) * 16_000) + 16_000)
    report = extract(teacher, corpus, settings, tmp_path / "halves")
    assert report.complete
    assert not report.quarantine
    whole, halves = (Store.open(tmp_path / name) for name in ("whole", "halves"))
    for utterance in corpus:
        expected, found = (store.read(utterance.id, "speed-0.9") for store in (whole, halves))
        assert torch.equal(expected.tokens, found.tokens)
        torch.testing.assert_close(expected.probs, found.probs, atol=1e-5, rtol=0)


def test_an_utterance_that_does_not_fit_is_an_error_with_its_name_and_length(tmp_path, corpus, settings):
    with pytest.raises(TargetsError, match=r"utterance '.+' of \d+\.\d s does not fit into memory.*window_seconds"):
        extract(SmallMemory(1_000), corpus, settings, tmp_path / "s")
    with pytest.raises(TargetsError, match=r"an utterance of 3600\.0 s does not fit into memory"):
        run_teacher(SmallMemory(1_000), [torch.zeros(3_600 * 16_000)])


def test_other_errors_are_not_taken_for_it():
    class Broken(FakeTeacher):
        def log_probs(self, waveforms, sample_lens):
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        run_teacher(Broken(), [torch.zeros(16_000), torch.zeros(16_000)])


def test_windows_are_computed_one_by_one():
    audio, lens = waveforms(160_000)
    expected = WindowedTeacher(near_sighted(), 1.0, 0.2).log_probs(audio, lens)
    calls = []

    class OneWindow:
        def __getattr__(self, name):
            return getattr(teacher, name)

        def log_probs(self, waveforms, sample_lens):
            calls.append(len(waveforms))
            if len(waveforms) > 1:
                too_large()
            return teacher.log_probs(waveforms, sample_lens)

    teacher = near_sighted()
    found = WindowedTeacher(OneWindow(), 1.0, 0.2).log_probs(audio, lens)
    assert calls[0] > 1
    assert calls.count(1) == calls[0]
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("right", [0, 6])
@pytest.mark.parametrize("samples", [9_000, 160_000, 163_001])
def test_a_streaming_model_computes_a_long_utterance_in_chunks(tmp_path, monkeypatch, samples, right):
    torch.manual_seed(0)
    streaming = Streaming(chunk_frames=4, left_context_frames=8, right_context_frames=right)
    model = Conformer(ConformerSettings(**SHAPE, streaming=streaming), len(VOCABULARY)).eval()
    save_model(tmp_path / "m", model, VOCABULARY, {})
    teacher = LocalTeacher(tmp_path / "m")
    audio = torch.randn(samples) * 0.1
    expected, _ = run_teacher(teacher, [audio])
    monkeypatch.setattr(AcousticModel, "forward", lambda self, *args, **kwargs: too_large())
    found, _ = run_teacher(teacher, [audio])
    assert found.lens.tolist() == expected.lens.tolist()
    frames = int(found.lens[0])
    torch.testing.assert_close(found.log_probs[:, :frames], expected.log_probs[:, :frames], atol=1e-5, rtol=0)
    several, _ = run_teacher(teacher, [audio, audio])  # in halves, then in chunks
    torch.testing.assert_close(several.log_probs[1], found.log_probs[0])
    with pytest.raises(TargetsError, match="does not fit"):  # layers are those of whole utterances
        run_teacher(teacher, [audio], layers=[1])


def test_a_model_with_full_context_is_not_split(tmp_path, monkeypatch):
    model = Conformer(ConformerSettings(**SHAPE), len(VOCABULARY)).eval()
    save_model(tmp_path / "m", model, VOCABULARY, {})
    monkeypatch.setattr(AcousticModel, "forward", lambda self, *args, **kwargs: too_large())
    with pytest.raises(TargetsError, match="does not fit"):
        run_teacher(LocalTeacher(tmp_path / "m"), [torch.zeros(16_000)])
