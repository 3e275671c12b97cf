"""Model folders: a round trip, and one clear refusal for each kind of damage."""

import json
import pickle

import pytest
import torch

from asr_kd.errors import CheckpointError, VocabularyError
from asr_kd.files import json_text
from asr_kd.models.weights import load_model, save_model
from asr_kd.text.vocabulary import Vocabulary
from tests.helpers.tiny_models import VOCABULARY, tiny_model


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "model", tiny_model(), VOCABULARY, {"note": "random"})
    return tmp_path / "model"


def test_round_trip_is_exact(folder):
    loaded = load_model(folder)
    for name, tensor in tiny_model().state_dict().items():
        assert loaded.model.state_dict()[name].equal(tensor)
    assert loaded.vocabulary == VOCABULARY
    assert loaded.card == {"note": "random"}
    assert not loaded.model.training


def test_half_precision_files_load_as_float32(tmp_path):
    save_model(tmp_path / "half", tiny_model(), VOCABULARY, {}, dtype=torch.bfloat16)
    loaded = load_model(tmp_path / "half").model.state_dict()
    for name, tensor in tiny_model().state_dict().items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], tensor, atol=0.05, rtol=0.01)


def test_a_flipped_bit_is_found_by_its_hash(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*SHA-256"):
        load_model(folder)


def test_a_pickle_in_disguise_never_runs(folder, tmp_path):
    canary = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (canary.touch, ())

    payload = pickle.dumps(Evil())
    path = folder / "model.safetensors"
    path.write_bytes(payload)
    description = json.loads((folder / "model.json").read_text())
    import hashlib

    description["weights_sha256"] = hashlib.sha256(payload).hexdigest()
    (folder / "model.json").write_text(json_text(description))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(folder)
    (tmp_path / "evil.pt").write_bytes(payload)
    with pytest.raises(CheckpointError, match="not a model folder"):
        load_model(tmp_path / "evil.pt")
    assert not canary.exists()


def test_other_versions_vocabularies_and_shapes_are_refused(folder):
    path = folder / "model.json"
    original = path.read_text()

    def change(**items):
        path.write_text(json_text({**json.loads(original), **items}))

    change(version=99)
    with pytest.raises(CheckpointError, match="version 99"):
        load_model(folder)
    shape = json.loads(original)["model"]
    change(model={**shape, "layers": 3})
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(folder)
    change(model={**shape, "widht": 3})
    with pytest.raises(CheckpointError, match="width"):
        load_model(folder)
    path.write_text(original)
    Vocabulary.characters(["XYZ"]).save(folder / "tokens.txt")
    with pytest.raises(CheckpointError, match="vocabulary"):
        load_model(folder)


def test_missing_parts_are_named(folder, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*missing"):
        load_model(folder)


SUBWORDS = Vocabulary.subwords(["THE CAT SAT ON THE MAT", "A DOG'S LIFE"], 24)


def test_subwords_come_back_with_the_model_that_cuts_text(tmp_path):
    save_model(tmp_path / "model", tiny_model(vocabulary=SUBWORDS), SUBWORDS, {})
    loaded = load_model(tmp_path / "model").vocabulary
    assert loaded == SUBWORDS
    assert loaded.encode("THE CAT'S LIFE") == SUBWORDS.encode("THE CAT'S LIFE")


def test_a_missing_or_foreign_bpe_model_is_refused(folder, tmp_path):
    save_model(tmp_path / "words", tiny_model(vocabulary=SUBWORDS), SUBWORDS, {})
    model = tmp_path / "words" / "bpe.model"
    content = model.read_bytes()
    model.unlink()
    with pytest.raises(CheckpointError, match=r"not the vocabulary"):
        load_model(tmp_path / "words")
    (folder / "bpe.model").write_bytes(content)
    with pytest.raises(VocabularyError, match=r"bpe\.model"):
        load_model(folder)
