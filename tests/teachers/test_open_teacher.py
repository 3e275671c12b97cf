"""The names of teachers in a recipe: read, refused with the reason, and opened."""

import pytest
import torch

from asr_kd.config import parse_settings
from asr_kd.errors import AsrKdError, RecipeError
from asr_kd.models.weights import save_model
from asr_kd.teachers import LocalTeacher, TeacherSource, open_teacher_source
from asr_kd.teachers.ensemble import Ensemble
from asr_kd.teachers.settings import SourceName, parse_source
from asr_kd.teachers.windows import WindowedTeacher
from tests.helpers.tiny_models import VOCABULARY, tiny_model
from tests.helpers.tiny_teachers import waveforms


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two model folders of one vocabulary."""
    root = tmp_path_factory.mktemp("models")
    for seed in (1, 2):
        save_model(root / f"m{seed}", tiny_model(streaming=False, seed=seed), VOCABULARY, {"name": f"m{seed}"})
    return root


def refused(**settings: object) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_settings(TeacherSource, settings, "recipe.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("torchaudio:HUBERT_ASR_LARGE", ("torchaudio", "HUBERT_ASR_LARGE", None)),
        ("hf:facebook/wav2vec2-base-960h", ("hf", "facebook/wav2vec2-base-960h", None)),
        ("hf:nvidia/parakeet-ctc-1.1b@main", ("hf", "nvidia/parakeet-ctc-1.1b", "main")),
        ("speechbrain:a/b@v1", ("speechbrain", "a/b", "v1")),
        ("local:exp/models/a@b", ("local", "exp/models/a@b", None)),
        ("recipe:teacher", ("recipe", "teacher", None)),
    ],
)
def test_sources_in_their_parts(text, parts):
    assert parse_source(text) == SourceName(*parts)


def test_a_folder_may_have_an_at_in_its_name(tmp_path):
    (tmp_path / "model@home").mkdir()
    assert parse_source(f"hf:{tmp_path}/model@home").revision is None


@pytest.mark.parametrize("source", ["", "hf", "hf:", "zenodo:x", "facebook/wav2vec2", "hf:@main", "hf:a/b@"])
def test_what_is_no_source_is_refused_with_all_forms(source):
    assert "hf:REPO_OR_FOLDER[@REVISION]" in refused(source=source)


@pytest.mark.parametrize("source", ["nemo:stt_en_conformer_ctc_large", "local:model.nemo", "nemo:"])
def test_nemo_is_refused_with_the_reason_and_the_way(source):
    message = refused(source=source)
    assert "opening it can run any code" in message
    assert "hf:REPO@REVISION" in message


def test_speechbrain_needs_a_revision_and_the_users_word():
    assert "names no revision" in refused(source="speechbrain:a/b", allow_code=True)
    assert "runs whatever its author wrote" in refused(source="speechbrain:a/b@main")
    assert "allow_code: true" in refused(source=[{"source": "local:x"}, {"source": "speechbrain:a/b@main"}])
    assert parse_settings(TeacherSource, {"source": "speechbrain:a/b@main", "allow_code": True}, "").allow_code


def test_keys_are_named_as_the_recipe_writes_them():
    assert "source.1.weight: allowed: above 0 (found 0)" in refused(
        source=[{"source": "local:x"}, {"source": "local:y", "weight": 0}]
    )
    assert "unknown key 'source.0.wieght': did you mean 'weight'?" in refused(
        source=[{"source": "local:x", "wieght": 1}]
    )
    assert "source: expected text (found 3)" in refused(source=3)
    assert "at least one member" in refused(source=[])
    assert "must be below half of window_seconds" in refused(source="local:x", window_seconds=4, overlap_seconds=2)


def test_teachers_of_the_recipe_become_folders(folders):
    both = TeacherSource(source=[{"source": "recipe:m1", "weight": 2.0}, {"source": f"local:{folders / 'm2'}"}])
    with pytest.raises(AsrKdError, match="a teacher that a recipe trains"):
        open_teacher_source(both)
    ensemble = open_teacher_source(both.resolved(lambda name: folders / name))
    assert ensemble.name == "m1 + m2"
    one = open_teacher_source(TeacherSource(source="recipe:m2").resolved(lambda name: folders / name))
    assert one.name == "m2"


def test_one_model_folder_is_that_teacher(folders):
    teacher = open_teacher_source(TeacherSource(source=f"local:{folders / 'm1'}"))
    assert isinstance(teacher, LocalTeacher)
    assert teacher.sha256 == LocalTeacher(folders / "m1").sha256
    assert open_teacher_source(TeacherSource(source=[{"source": f"local:{folders / 'm1'}"}])).sha256 == teacher.sha256


def test_everything_together(folders):
    settings = TeacherSource(
        source=[{"source": f"local:{folders / 'm1'}"}, {"source": f"local:{folders / 'm2'}", "weight": 3.0}],
        average="log_probabilities",
        precision="bf16",
        window_seconds=2.0,
        overlap_seconds=0.4,
    )
    teacher = open_teacher_source(settings)
    assert isinstance(teacher, WindowedTeacher)
    assert isinstance(teacher.teacher, Ensemble)
    audio, lens = waveforms(80_000, 16_000)
    said = teacher.log_probs(audio, lens)
    assert said.lens.tolist() == LocalTeacher(folders / "m1").log_probs(audio, lens).lens.tolist()
    for row, frames in enumerate(said.lens.tolist()):
        sums = said.log_probs[row, :frames].exp().sum(-1)
        torch.testing.assert_close(sums, torch.ones(frames), atol=1e-5, rtol=0)


def test_our_own_frames_in_windows_are_as_many_as_without(folders):
    whole = LocalTeacher(folders / "m1")
    windowed = WindowedTeacher(whole, 2.0, 0.4)
    for num_samples in (32_001, 40_123, 100_000):
        audio, lens = waveforms(num_samples)
        assert windowed.log_probs(audio, lens).lens.tolist() == whole.log_probs(audio, lens).lens.tolist()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_our_own_models_in_half_precision(folders, precision):
    whole, half = (LocalTeacher(folders / "m1", precision=kind) for kind in ("fp32", precision))
    audio, lens = waveforms(16_000)
    said, said_half = whole.log_probs(audio, lens).log_probs, half.log_probs(audio, lens).log_probs
    assert said_half.dtype == torch.float32
    assert not torch.equal(said, said_half)
    assert float((said.exp() - said_half.exp()).abs().max()) < 0.1
    assert half.sha256 != whole.sha256


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        ({"window_seconds": 1, "overlap_seconds": 0.4}, "window_seconds (1) of at least 2"),
        ({"overlap_seconds": 0}, "overlap_seconds (0) above 0"),
        ({"overlap_seconds": 20}, "overlap_seconds (20) must be below half of window_seconds (30)"),
    ],
)
def test_windows_that_an_encoder_cannot_have_are_refused_in_the_recipe(windows, message):
    assert message in refused(source="encoder:a/b", **windows)


def test_an_encoder_in_a_list_is_refused_even_alone():
    assert "name it alone, not in a list" in refused(source=[{"source": "encoder:a/b"}])


def test_a_source_below_the_home_folder_of_nobody_is_refused_when_it_is_opened():
    with pytest.raises(AsrKdError, match="does not exist"):
        open_teacher_source(TeacherSource(source="hf:~no-user-of-this-name/model"))
