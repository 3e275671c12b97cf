"""Representation: known answers, stored layers equal computed ones, delay, gradients, padding, pieces, extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_kd.config import parse_settings
from asr_kd.errors import RecipeError, TrainingError
from asr_kd.losses import DistillSettings, Objective, Shape, StudentOutput, Supervision
from asr_kd.losses.representation import Representation, RepresentationSettings
from asr_kd.posteriors import DensePosteriors
from asr_kd.posteriors.types import array_names, dequantise, quantise
from tests.helpers.passes import BLANK, LENS, padded, random_log_probs, rows

SHAPE = Shape(BLANK, vocab_size=5, width=4, layers=3, teacher_width=6, teacher_layers=8)
PAIRS = ((1, 2), (3, 8))


def term_of(**changes) -> Representation:
    torch.manual_seed(0)
    return RepresentationSettings(**{"pairs": PAIRS, **changes}).build(SHAPE)


def hidden(seed: int, width: int, frames: int = 6) -> torch.Tensor:
    return torch.randn(3, frames, width, generator=torch.Generator().manual_seed(seed))


def output_of(frames: int = 6, lens: torch.Tensor = LENS) -> StudentOutput:
    layers = {layer: hidden(layer, 4, frames) for layer in (1, 3)}
    return StudentOutput(random_log_probs(1, 3, frames, 5), lens, layers)


def student_output(chosen: slice = slice(None), lens: torch.Tensor = LENS) -> Supervision:
    """A teacher that is run in training."""
    layers = {layer: hidden(10 + layer, 6)[chosen] for layer in (2, 8)}
    targets = DensePosteriors(random_log_probs(2, 3, 6, 5)[chosen], lens[chosen])
    return Supervision(targets=targets, teacher_layers=layers)


def stored() -> Supervision:
    """The same teacher from a store: each utterance quantised by itself, padded with zeros."""
    arrays = {}
    for layer in (2, 8):
        codes, scales = torch.zeros(3, 6, 6, dtype=torch.int8), torch.zeros(3, 1, 6)
        for row, length in enumerate(LENS.tolist()):
            codes[row, :length], scales[row] = quantise(hidden(10 + layer, 6)[row, :length])
        arrays |= dict(zip(array_names(layer), (codes, scales), strict=True))
    return student_output()._replace(teacher_layers={}, arrays=arrays)


def by_definition(term: Representation, output: StudentOutput, delay: int) -> torch.Tensor:
    total = torch.zeros(())
    for (student, teacher), projection in zip(PAIRS, term.projections, strict=True):
        for row, length in enumerate(LENS.tolist()):
            for t in range(length):
                ours = projection(output.layers[student][row, t + delay])
                theirs = hidden(10 + teacher, 6)[row, t]
                if term.distance == "mse":
                    total = total + ((ours - theirs) ** 2).mean()
                elif term.distance == "channels":
                    frames = torch.cat([hidden(10 + teacher, 6)[n, :m] for n, m in enumerate(LENS.tolist())])
                    total = total + ((ours - theirs) ** 2 / frames.var(0, correction=0)).mean()
                else:
                    total = total + 1 - (ours @ theirs) / (ours.norm() * theirs.norm())
    return total / len(PAIRS)


@pytest.mark.parametrize("distance", ["mse", "channels", "cosine"])
@pytest.mark.parametrize("delay", [0, 2])
def test_equals_the_definition_computed_frame_by_frame(distance, delay):
    term = term_of(distance=distance, delay_frames=delay)
    output = output_of(6 + delay, LENS + delay)
    torch.testing.assert_close(term(output, student_output()), by_definition(term, output, delay))
    assert term.delay_frames == delay


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_a_student_whose_projection_is_the_teacher_costs_nothing(distance):
    term, output = term_of(distance=distance), output_of()
    layers = {
        teacher: projection(output.layers[student]).detach()
        for (student, teacher), projection in zip(PAIRS, term.projections, strict=True)
    }
    loss = term(output, student_output()._replace(teacher_layers=layers))
    torch.testing.assert_close(loss, torch.zeros(()), atol=1e-5, rtol=0)
    scaled = term(output, student_output()._replace(teacher_layers={layer: 3 * part for layer, part in layers.items()}))
    assert (float(scaled.detach()) < 1e-5) == (distance == "cosine")


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_stored_layers_teach_as_heard_ones_do(distance):
    term = term_of(distance=distance)
    torch.testing.assert_close(term(output_of(), stored()), term(output_of(), student_output()), rtol=0.02, atol=0.0)


def test_a_known_answer_for_a_student_without_a_projection():
    """One utterance of two frames; layer-normalised, the student's are (−1, 1, −1, 1) and (1, −1, 1, −1)."""
    shape = Shape(BLANK, vocab_size=5, width=4, layers=1, teacher_width=4, teacher_layers=1)
    student = torch.tensor([[[0.0, 2.0, 0.0, 2.0], [7.0, 1.0, 7.0, 1.0]]])
    teacher = torch.tensor([[[-1.0, 1.0, -1.0, 3.0], [1.0, -1.0, 1.0, -1.0]]])
    lens = torch.tensor([2])
    output = StudentOutput(random_log_probs(1, 1, 2, 5), lens, {1: student})
    targets = DensePosteriors(random_log_probs(2, 1, 2, 5), lens)
    supervision = Supervision(targets=targets, teacher_layers={1: teacher})
    expected = {"mse": 4 / 4, "channels": 1 / 4, "cosine": 1 - 6 / (2 * 12**0.5)}  # the last channel's deviation is 2
    for distance, loss in expected.items():
        given = RepresentationSettings(pairs=((1, 1),), distance=distance, projection="none")
        term = given.build(shape)
        assert float(term(output, supervision)) == pytest.approx(loss, abs=1e-4)
        assert not list(term.parameters())
    with pytest.raises(TrainingError, match="4 channels wide"):
        given.build(Shape(BLANK, width=4, layers=1, teacher_width=6, teacher_layers=1))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), frames=st.integers(0, 9), sizes=st.integers(-12, 12))
def test_quantising_is_within_half_a_step_of_each_channel(seed, frames, sizes):
    channels = 10.0 ** torch.linspace(-sizes, sizes, 5)
    states = torch.randn(frames, 5, generator=torch.Generator().manual_seed(seed)) * channels
    codes, scale = quantise(states)
    assert codes.dtype == torch.int8
    assert codes.shape == states.shape
    assert scale.shape == (1, 5)
    worst = states.abs().amax(0) / 254 * (1 + 1e-5) if frames else torch.zeros(5)
    assert ((dequantise(codes, scale) - states).abs() <= worst).all()


def test_nothing_stays_nothing():
    codes, scale = quantise(torch.zeros(3, 4))
    assert not dequantise(codes, scale).any()


def test_the_gradient_reaches_layers_and_projections_and_not_the_teacher():
    term, output, supervision = term_of(), output_of(), student_output()
    leaves = [*output.layers.values(), *supervision.teacher_layers.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    term(output, supervision).backward()
    assert all(part.grad is None for part in supervision.teacher_layers.values())
    assert all(parameter.grad.any() for parameter in term.parameters())
    for layer in output.layers.values():
        assert [[bool(frame.any()) for frame in row] for row in layer.grad] == [
            [t < length for t in range(6)] for length in LENS.tolist()
        ]


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_padding_changes_nothing_and_halves_add_up(distance):
    term, output = term_of(distance=distance), output_of()
    whole = term(output, student_output())
    longer = {
        layer: torch.cat([part, torch.full((3, 2, 6), 9.0)], 1)
        for layer, part in student_output().teacher_layers.items()
    }
    torch.testing.assert_close(term(padded(output, 3), student_output()._replace(teacher_layers=longer)), whole)
    parts = [term(rows(output, half), student_output(half)) for half in (slice(0, 1), slice(1, 2), slice(2, 3))]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_of_zeros_large_ones_and_empty_utterances_stay_finite(distance, dtype):
    term, lens = term_of(distance=distance), torch.tensor([6, 1, 0])
    layers = {1: torch.zeros(3, 6, 4, dtype=dtype), 3: torch.full((3, 6, 4), 1e4, dtype=dtype)}
    layers = {number: layer.requires_grad_() for number, layer in layers.items()}
    for projection in term.projections:
        torch.nn.init.zeros_(projection.bias)
    loss = term(StudentOutput(random_log_probs(1, 3, 6, 5), lens, layers), student_output(lens=lens))
    loss.backward()
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    assert all(layer.grad.isfinite().all() for layer in layers.values())
    assert all(parameter.grad.isfinite().all() for parameter in term.parameters())


def test_what_it_needs_follows_from_its_pairs():
    term = term_of()
    assert (term.needs_layers, term.needs_teacher_layers) == ((1, 3), (2, 8))
    assert term.needs_arrays == ("layer-2", "layer-2-scale", "layer-8", "layer-8-scale")
    given = {"objectives": {"representation": {"pairs": [[1, 2], [3, 8]]}}}
    chosen = parse_settings(DistillSettings, given, "recipe.yaml")
    assert chosen.needs_targets
    assert chosen.teacher_layers == (2, 8)
    objective = Objective.from_settings(chosen, SHAPE)
    assert objective.needs_teacher_layers == (2, 8)
    assert objective.inner == ["ctc"]
    with pytest.raises(ValueError, match="teacher's layer 2"):
        term(output_of(), student_output()._replace(teacher_layers={}))
    with pytest.raises(TrainingError, match="a delay of 1"):
        term_of(delay_frames=1)(output_of(), student_output())


@pytest.mark.parametrize(
    ("pairs", "changes", "message"),
    [
        ([[4, 2]], {}, r"pairs \[4, 2\]: the student's layer must lie from 1 to 3"),
        ([[3, 9]], {}, r"pairs \[3, 9\]: the teacher's layer must lie from 1 to 8"),
        ([[3, 8]], {"teacher_layers": None}, "needs a teacher that is one model of this project's own"),
    ],
)
def test_layers_that_are_not_there_are_refused(pairs, changes, message):
    chosen = DistillSettings.model_validate({"objectives": {"representation": {"pairs": pairs}}})
    shape = Shape(**{**SHAPE.__dict__, **changes})
    with pytest.raises(TrainingError, match=message):
        Objective.from_settings(chosen, shape)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objectives": {"representation": {}}}, "pairs: missing"),
        ({"objectives": {"representation": {"pairs": []}}}, "at least 1, found 0"),
        ({"objectives": {"representation": {"pairs": [[0, 1]]}}}, "greater than or equal to 1"),
        (
            {"kd_weight": 1.0, "objectives": {"representation": {"pairs": [[1, 1]]}, "guided_ctc": {}}},
            "never train blanks",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, message):
    with pytest.raises(RecipeError, match=message):
        parse_settings(DistillSettings, given, "recipe.yaml")
