"""Model folders and existing teachers as systems: cost of their files, own vocabulary, scored alike."""

import pytest
import torch

from asr_kd.errors import CheckpointError
from asr_kd.evaluation.comparison import Comparison
from asr_kd.evaluation.evaluate import evaluate_systems
from asr_kd.evaluation.open_systems import TeacherRecognizer, open_system, open_teacher_system
from asr_kd.evaluation.report import Report, read_results
from asr_kd.evaluation.report.assemble import assemble
from asr_kd.evaluation.report.text_renderers import markdown
from asr_kd.evaluation.results import RunFacts
from asr_kd.evaluation.settings import EvaluationSettings
from asr_kd.evaluation.system import System
from asr_kd.models.conformer import Conformer
from asr_kd.models.settings import ConformerSettings, Streaming
from asr_kd.models.weights import save_model
from asr_kd.posteriors.types import DensePosteriors
from asr_kd.teachers.local import LocalTeacher
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.evaluations import QUICK
from tests.helpers.tiny_models import noise_speech, save_tiny_model

SHAPE = {"width": 16, "layers": 1, "heads": 2, "feed_forward": 16, "kernel": 3, "subsampling_channels": 4}


@pytest.fixture
def folders(tmp_path):
    """A full-context teacher and a chunked student, with their first weights."""
    vocabulary = Vocabulary.characters(["one two three four five six seven eight nine ten"])
    torch.manual_seed(0)
    for name, streaming in (("teacher", None), ("student", Streaming(chunk_frames=4, left_context_frames=8))):
        model = Conformer(ConformerSettings(**SHAPE, streaming=streaming), len(vocabulary))
        save_model(tmp_path / name, model, vocabulary, {})
    return tmp_path


def test_model_folders_evaluate_like_any_other_system(folders, utterances):
    systems = [
        open_system("teacher", "teacher", folders / "teacher"),
        open_system("student", "student_hard", folders / "student", details={"seed": 3}),
    ]
    settings = EvaluationSettings(bootstrap_samples=200, rtf_utterances=1, memory=False)
    evaluate_systems(systems, {"dev": utterances}, settings, folders / "report")
    models = read_results(folders / "report")["models"]
    student = models["student_hard"]
    assert (student["chunk_ms"], student["left_context_ms"], student["seed"]) == (160, 320, 3)
    assert (models["teacher"]["chunk_ms"], models["teacher"]["streaming_real_time_factor"]) == (None, None)
    assert student["streaming_real_time_factor"] > 0
    assert student["size_bytes"] == (folders / "student" / "model.safetensors").stat().st_size
    assert 0 < 4 * student["parameters"] <= student["size_bytes"]
    assert (student["engine"], student["device"]) == ("torch", "cpu")
    assert student["cost"]["macs_per_second"] > 0


def test_a_folder_that_is_no_model_is_refused(folders):
    with pytest.raises(CheckpointError, match="neither a model folder nor a bundle"):
        open_system("x", "other", folders)


FRAME = 160  # samples: 10 ms, so that half a second can be spelt
SETTINGS = QUICK.model_copy(update={"normalizer": "librispeech", "rtf_utterances": 2})


class Spelling:
    """Finds transcripts by the number of samples, and spells them out: a token a frame, a blank between."""

    name = "spelling"
    sha256 = "c" * 64
    frame_shift_ms = 10.0
    frame_offset_ms = 12.5
    features = {"kind": "waveform"}  # noqa: RUF012
    num_parameters = 300_000_000
    num_bytes = 1_200_000_000
    vocabulary = Vocabulary(("▁", *"abcdefghijklmnopqrstuvwxyz", "<blk>"))  # the blank is where it likes

    def __init__(self, texts):
        self.texts = texts
        self.calls = []

    def log_probs(self, waveforms, sample_lens):
        self.calls.append(tuple(waveforms.shape))
        frames = sample_lens // FRAME
        logits = torch.full((len(waveforms), int(frames.max()), len(self.vocabulary)), -10.0)
        logits[..., self.vocabulary.blank_id] = 0.0
        for row, length in enumerate(sample_lens.tolist()):
            assert not waveforms[row, length:].any()
            for place, token in enumerate(self.vocabulary.encode(self.texts[length])):
                logits[row, 2 * place, token] = 10.0
            logits[row, length // FRAME :] = torch.nan  # beyond its length nothing may be read
        return DensePosteriors(logits.log_softmax(-1), frames)


@pytest.fixture
def teacher(utterances):
    return Spelling({round(utterance.duration * 16_000): utterance.text for utterance in utterances})


def test_it_is_evaluated_like_any_other(teacher, utterances, stored, tmp_path):
    """It writes small letters and the student capitals: the normalizer makes them one."""
    shouting = stored({utterance.id: (utterance.text or "").upper() for utterance in utterances})
    systems = [
        open_teacher_system("spelling", teacher, details={"source": "torchaudio:SPELLING"}),
        System("student", "student_kd", shouting),
    ]
    evaluate_systems(systems, {"dev": utterances}, SETTINGS, tmp_path)
    results = read_results(tmp_path)
    assert results["test_sets"]["dev"]["teacher"]["wer"] == results["test_sets"]["dev"]["student_kd"]["wer"] == 0
    model = results["models"]["teacher"]
    assert (model["parameters"], model["size_bytes"], model["device"]) == (300_000_000, 1_200_000_000, "cpu")
    assert (model["external"], model["symbols"], model["frame_shift_ms"]) == (True, 28, 10.0)
    assert model["real_time_factor"] > 0
    assert model["streaming_real_time_factor"] is None


def test_batches_are_bounded_and_do_not_change_a_text(teacher, utterances):
    waveforms = [torch.rand(round(utterance.duration * 16_000)) for utterance in utterances]
    texts = [utterance.text for utterance in utterances]
    for seconds, calls in ((60.0, 1), (1.6, 4), (0.1, 6)):
        teacher.calls.clear()
        assert TeacherRecognizer(teacher, seconds).transcribe(waveforms) == texts
        assert len(teacher.calls) == calls
        assert all(rows == 1 or rows * samples <= seconds * 16_000 for rows, samples in teacher.calls)


def test_a_model_folder_writes_the_same_as_a_teacher_and_as_a_system(tmp_path):
    folder = save_tiny_model(tmp_path / "model", streaming=False)
    waveforms = [noise_speech(1.0 + 0.37 * number, seed=number) for number in range(5)]
    texts = open_system("model", "teacher", folder).recognizer.transcribe(waveforms)
    assert len(set(texts)) == len(texts)
    for seconds in (60.0, 3.0):
        teacher = open_teacher_system("model", LocalTeacher(folder), batch_seconds=seconds)
        assert teacher.recognizer.transcribe(waveforms) == texts


def test_audio_shorter_than_a_frame_has_no_words(teacher):
    teacher.texts[100] = ""
    assert TeacherRecognizer(teacher).transcribe([torch.rand(100)]) == [""]


def test_a_teacher_that_gives_nan_is_refused_by_name(teacher):
    class Broken(Spelling):
        def log_probs(self, waveforms, sample_lens):
            dense = super().log_probs(waveforms, sample_lens)
            return dense._replace(log_probs=dense.log_probs * torch.nan)

    with pytest.raises(CheckpointError, match="spelling: gives log-probabilities that are not numbers"):
        TeacherRecognizer(Broken({8_000: "a"})).transcribe([torch.rand(8_000)])


def test_what_the_protocol_does_not_require_may_be_missing(teacher):
    class Bare(Spelling):
        num_parameters = num_bytes = None

    system = open_teacher_system("bare", Bare({}))
    assert (system.parameters, system.size_bytes, system.role) == (None, None, "teacher")


def test_the_report_summarises_a_distillation_from_elsewhere(teacher, utterances, stored, tmp_path):
    wrong = stored({utterance.id: "x" for utterance in utterances})
    systems = [
        open_teacher_system("spelling", teacher, details={"source": "torchaudio:SPELLING"}),
        System("5m-hard", "other", wrong, parameters=5_000_000),
        System("5m-kd", "other", stored({"ann-1": "x"}), parameters=5_000_000, size_bytes=20_000_000),
    ]
    facts = RunFacts(
        comparisons=(Comparison("5m-kd", "5m-hard", "spelling"),),
        teachers={"spelling": {"bridge": "pairs of 20 ms frames", "targets, bytes a frame": 1.9}},
    )
    evaluate_systems(systems, {"dev": utterances}, SETTINGS, tmp_path, facts)
    assert read_results(tmp_path)["teachers"]["spelling"]["targets, bytes a frame"] == 1.9
    text = markdown(assemble(Report(read_results(tmp_path))))
    section = text.split("## Distillation")[1].split("## Models")[0]
    assert "The teacher spelling (torchaudio:SPELLING), weights cccccccccccc… was not trained by this run" in section
    assert "in its own 28 symbols with a frame every 10 ms" in section
    assert "- bridge: pairs of 20 ms frames\n- targets, bytes a frame: 1.9" in section
    assert "| 5m-kd | spelling | 5.00 M (60 ×) | 20.0 MB (60 ×) |" in section
    gap = 100 * (17 - 4) / 17  # every word wrong and one inserted, against one utterance of four words wrong
    assert f"| {gap:.0f} % [" in section
    models = text.split("## Models")[1]
    assert "external" not in models
    assert "c" * 64 not in text
