"""Damaged bundles and model folders: an error that names the bundle, or the model that was exported."""

import shutil

import pytest
import torch

from asr_kd.errors import AsrKdError
from asr_kd.files import sha256_of_file
from asr_kd.models.weights import load_model
from asr_kd.runtime.bundle import DESCRIPTION, MODEL, TOKENS, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.mutations import copies_that_fit, damaged_copies, outcomes_of

COUNT = 400
"""Copies of each file."""

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", [DESCRIPTION, TOKENS, MODEL])
def test_a_fuzzed_bundle_is_refused_or_the_same(damaged, name):
    original = read_bundle(damaged)

    def attempt() -> str:
        try:
            found = read_bundle(damaged)
        except AsrKdError as error:
            return "refused" if str(damaged) in error.where else f"no file named: {error}"
        assert (found.info, found.graph_bytes) == (original.info, original.graph_bytes)
        return "same"

    outcomes = outcomes_of(damaged_copies(damaged / name, COUNT), attempt)
    assert outcomes.keys() <= {"refused", "same"}, outcomes
    assert outcomes["refused"] > 0.9 * COUNT, outcomes


@pytest.mark.parametrize("name", [DESCRIPTION, TOKENS])
def test_a_fuzzed_bundle_with_hashes_that_fit_opens_or_is_refused(damaged, name):
    """No traceback, and no end of the process."""
    path = damaged / name

    def refer(described):
        entry = {"sha256": sha256_of_file(path), "size_bytes": path.stat().st_size}
        return described | {"files": described["files"] | {"tokens": entry}}

    def attempt() -> str:
        open_recognizer(damaged)
        return "opened"

    outcomes = outcomes_of(copies_that_fit(path, damaged / DESCRIPTION, COUNT, refer), attempt)
    assert outcomes["refused"] > 20, outcomes


@pytest.mark.parametrize("name", ["model.json", "tokens.txt", "model.safetensors"])
def test_a_fuzzed_model_folder_is_refused_or_the_same(model_folder, tmp_path, name):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    original = load_model(folder)
    own = original.model.state_dict()

    def attempt() -> str:
        found = load_model(folder)
        assert found.card == original.card
        assert all(torch.equal(value, own[key]) for key, value in found.model.state_dict().items())
        return "same"

    assert outcomes_of(damaged_copies(folder / name, COUNT), attempt)["refused"] > 0.5 * COUNT
