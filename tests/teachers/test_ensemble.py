"""Several teachers as one: the average that was asked for, or both sides named."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr_kd.errors import CheckpointError, RecipeError
from asr_kd.posteriors import DensePosteriors
from asr_kd.teachers.ensemble import Ensemble
from asr_kd.teachers.frame_geometry import FrameGeometry, Layer, strided
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_teachers import SHORT_KERNELS, SHORT_STRIDES, near_sighted, waveforms


def said(teacher) -> torch.Tensor:
    return teacher.log_probs(*waveforms(9000, 16000)).log_probs[1]


@given(weights=st.lists(st.floats(0.01, 100.0), min_size=2, max_size=3))
def test_the_average_of_probabilities(weights):
    members = [near_sighted(seed) for seed in range(len(weights))]
    expected = sum(weight * said(member).exp() for weight, member in zip(weights, members, strict=True)) / sum(weights)
    torch.testing.assert_close(said(Ensemble(members, weights, "probabilities")).exp(), expected, atol=1e-6, rtol=1e-4)


@given(weights=st.lists(st.floats(0.01, 100.0), min_size=2, max_size=3))
def test_the_average_of_log_probabilities_is_normalised(weights):
    members = [near_sighted(seed) for seed in range(len(weights))]
    summed = sum(weight * said(member) for weight, member in zip(weights, members, strict=True)) / sum(weights)
    average = said(Ensemble(members, weights, "log_probabilities"))
    torch.testing.assert_close(average, summed.log_softmax(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(average.exp().sum(-1), torch.ones(len(average)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("average", ["probabilities", "log_probabilities"])
def test_of_one_teacher_twice_it_is_that_teacher(average):
    teacher = near_sighted()
    torch.testing.assert_close(said(Ensemble([teacher, teacher], [1, 3], average)), said(teacher), atol=1e-5, rtol=0)


class Sure:
    """One frame, always the same posteriors."""

    name, sha256, frame_shift_ms, frame_offset_ms = "sure", "0" * 64, 20.0, 12.5
    vocabulary, features = Vocabulary(("<blk>", "a", "b")), {"kind": "none"}

    def __init__(self, *probs: float) -> None:
        self.probs = torch.tensor([[probs]])

    def log_probs(self, audio, lens):
        return DensePosteriors(self.probs.log(), torch.ones(1, dtype=torch.int64))


@pytest.mark.parametrize(
    ("average", "expected"),
    [("probabilities", (0.495, 0.495, 0.01)), ("log_probabilities", (0.4760, 0.4760, 0.0481))],
)
def test_known_answers(average, expected):
    members = [Sure(0.98, 0.01, 0.01), Sure(0.01, 0.98, 0.01)]
    averaged = Ensemble(members, [2, 2], average).log_probs(torch.zeros(1, 1), torch.ones(1)).log_probs.exp()
    torch.testing.assert_close(averaged[0, 0], torch.tensor(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("average", "expected"), [("probabilities", 0.25), ("log_probabilities", 0.0)])
def test_what_one_member_rules_out(average, expected):
    """Stays possible in a mixture, is out in a product; and nothing becomes NaN."""
    members = [Sure(0.5, 0.5, 0.0), Sure(0.5, 0.0, 0.5)]
    averaged = Ensemble(members, [1, 1], average).log_probs(torch.zeros(1, 1), torch.ones(1)).log_probs.exp()
    torch.testing.assert_close(averaged[0, 0], torch.tensor((1 - 2 * expected, expected, expected)))


def test_says_who_it_is():
    ensemble = Ensemble([near_sighted(0), near_sighted(1)], [1, 1], "probabilities")
    assert ensemble.name == "near-sighted 0 + near-sighted 1"
    assert ensemble.vocabulary == near_sighted().vocabulary
    assert (ensemble.frame_shift_ms, ensemble.frame_offset_ms) == (20.0, near_sighted().frame_offset_ms)
    same = Ensemble([near_sighted(0), near_sighted(1)], [5, 5], "probabilities")
    others = [
        Ensemble([near_sighted(0), near_sighted(1)], [1, 2], "probabilities"),
        Ensemble([near_sighted(0), near_sighted(1)], [1, 1], "log_probabilities"),
        Ensemble([near_sighted(0), near_sighted(2)], [1, 1], "probabilities"),
    ]
    assert same.sha256 == ensemble.sha256
    assert len({ensemble.sha256, *(other.sha256 for other in others)}) == 4


def test_another_vocabulary_is_refused_by_its_first_difference():
    other = dataclasses.replace(near_sighted(1), name="other", vocabulary=Vocabulary(("▁", "<blk>", *"abcd")))
    with pytest.raises(RecipeError, match=r"near-sighted 0 .*6 symbols and other 6; id 0 is '<blk>' and '▁'"):
        Ensemble([near_sighted(0), other], [1, 1], "probabilities")
    with pytest.raises(RecipeError, match="6 symbols and near-sighted 0 5; one goes on longer"):
        Ensemble([near_sighted(0), near_sighted(0, size=5)], [1, 1], "probabilities")


def test_other_frames_are_refused_with_both_grids():
    other = dataclasses.replace(near_sighted(1), geometry=FrameGeometry((Layer(400, 320, 40),)))
    with pytest.raises(RecipeError, match=r"frames at 13\.125 \+ 20·i ms and near-sighted 1 at 10 \+ 20·i ms"):
        Ensemble([near_sighted(0), other], [1, 1], "probabilities")


def test_other_frame_counts_are_refused_by_name():
    class Late:
        """As the first, but it never says the last frame."""

        def __init__(self) -> None:
            self.teacher = near_sighted(1)

        def __getattr__(self, name: str):
            return getattr(self.teacher, name)

        def log_probs(self, audio, lens):
            dense = self.teacher.log_probs(audio, lens)
            return dense._replace(lens=dense.lens - 1)

    assert FrameGeometry(strided(SHORT_KERNELS, SHORT_STRIDES)).frames(16_000) == 49
    with pytest.raises(CheckpointError, match="near-sighted 0 gives 27 frames and near-sighted 1 26"):
        said(Ensemble([near_sighted(0), Late()], [1, 1], "probabilities"))
