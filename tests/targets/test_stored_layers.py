"""A teacher's hidden layers in the store: values, cost, teachers without layers."""

import pytest
import torch

from asr_kd.audio import read_audio
from asr_kd.errors import TargetsError
from asr_kd.features.augment import speed_perturb
from asr_kd.posteriors.types import array_names
from asr_kd.targets import Store, TargetSettings, extract
from asr_kd.targets.bridge import BridgeSettings, bridge
from asr_kd.targets.inspect import summarize
from asr_kd.targets.stored_arrays import layered, read_layer, run_teacher
from asr_kd.teachers import LocalTeacher
from asr_kd.teachers.ensemble import Ensemble
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_models import VOCABULARY, save_tiny_model

LAYERS = (1, 2)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> LocalTeacher:
    return LocalTeacher(save_tiny_model(tmp_path_factory.mktemp("teacher") / "model", streaming=False))


@pytest.fixture
def deep(settings) -> TargetSettings:
    return settings.model_copy(update={"layers": LAYERS, "max_entries": 4})


def test_stored_layers_are_the_computed_ones_within_rounding(corpus, local, deep, tmp_path):
    extract(local, corpus, deep, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert store.info.layers == {1: 32, 2: 32}
    for utterance in corpus:
        for speed in deep.speeds:
            waveform = speed_perturb(read_audio(utterance.audio), speed)
            dense, hidden = run_teacher(local, [waveform], LAYERS)
            torch.testing.assert_close(dense.log_probs, run_teacher(local, [waveform])[0].log_probs)
            for layer in LAYERS:
                stored = read_layer(store, layer, utterance.id, f"speed-{speed}")
                computed = hidden[layer][0, : int(dense.lens[0])]
                assert stored.shape == (len(store.read(utterance.id, f"speed-{speed}").tokens), 32)
                # Half a step of each channel, and what another batch changes.
                assert ((stored - computed).abs() <= computed.abs().amax(0) / 254 + 1e-4).all()


def test_their_cost_is_measured_and_reported(corpus, local, deep, tmp_path):
    plain = extract(local, corpus, deep.model_copy(update={"layers": ()}), tmp_path / "plain")
    report = extract(local, corpus, deep, tmp_path / "store")
    assert plain.info.layer_bytes_per_frame == 0.0
    assert plain.fidelity.layer_error is None
    rows = len(corpus) * len(deep.speeds)
    assert report.info.layer_bytes_per_frame == pytest.approx(2 * 32 * (1 + 4 * rows / report.info.frames))
    assert report.info.bytes_per_frame - plain.info.bytes_per_frame == pytest.approx(
        report.info.layer_bytes_per_frame, rel=0.1
    )
    assert 0.0 < report.fidelity.layer_error < 0.01
    (line,) = [line for line in summarize(tmp_path / "store") if "bytes a frame" in line]
    assert line.endswith(f"of which {report.info.layer_bytes_per_frame:.1f} for the teacher's layers 1, 2")


def test_going_on_with_other_layers_is_refused_and_the_same_gives_the_same_bytes(
    corpus, local, deep, tmp_path, shard_files
):
    extract(local, corpus, deep, tmp_path / "store")
    first = shard_files(tmp_path / "store")
    assert first
    removed = next(iter(first))
    (tmp_path / "store" / removed).unlink()
    extract(local, corpus, deep, tmp_path / "store")
    assert shard_files(tmp_path / "store") == first
    with pytest.raises(TargetsError, match="differ in layers"):
        extract(local, corpus, deep.model_copy(update={"layers": (1,)}), tmp_path / "store")


def test_a_store_without_a_layer_names_those_it_has(corpus, local, deep, tmp_path):
    extract(local, corpus, deep.model_copy(update={"layers": (2,)}), tmp_path / "store")
    with pytest.raises(TargetsError, match=r"has no array 'layer-1'.*layer-2"):
        read_layer(Store.open(tmp_path / "store"), 1, corpus[0].id)
    codes, scale = (Store.open(tmp_path / "store").read_array(name, corpus[0].id) for name in array_names(2))
    assert (codes.dtype, scale.dtype) == ("int8", "float32")


def test_only_our_own_teachers_have_layers(corpus, local, teacher, deep, tmp_path):
    with pytest.raises(
        TargetsError, match=r"does not expose its hidden layers.*a model of this project.*or an `encoder:`"
    ):
        extract(teacher, corpus, deep, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    letters = Vocabulary((*VOCABULARY.symbols, "Z"))
    others = [
        bridge(local, letters, settings=BridgeSettings(ignore=("Z",))),
        Ensemble([local, local], [1.0, 1.0], "probabilities"),
    ]
    for other in others:
        with pytest.raises(TargetsError, match="does not expose its hidden layers"):
            layered(other, (1,))
    with pytest.raises(TargetsError, match=r"has no layer 3.*1 to 2"):
        extract(local, corpus, deep.model_copy(update={"layers": (1, 3)}), tmp_path / "store")


def test_layers_that_are_not_numbers_are_quarantined(corpus, local, deep, tmp_path, monkeypatch):
    real = LocalTeacher.with_layers

    def spoilt(self, waveforms, sample_lens, layers):
        dense, hidden = real(self, waveforms, sample_lens, layers)
        return dense, {layer: part * torch.inf for layer, part in hidden.items()}

    monkeypatch.setattr(LocalTeacher, "with_layers", spoilt)
    with pytest.raises(TargetsError, match="posteriors or layers are not finite"):
        extract(local, corpus, deep, tmp_path / "store")


def test_layers_are_sorted_and_counted_from_1():
    assert TargetSettings(layers=(3, 1, 3)).layers == (1, 3)
    with pytest.raises(ValueError, match="counted from 1"):
        TargetSettings(layers=(0,))
