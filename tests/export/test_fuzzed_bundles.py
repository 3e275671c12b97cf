"""Damaged bundles and model folders: an error that names the bundle, or the model that was exported."""

import json
import shutil
from collections import Counter

import pytest
import torch

from asr_kd.errors import AsrKdError
from asr_kd.files import json_text
from asr_kd.models.weights import load_model
from asr_kd.runtime.bundle import DESCRIPTION, MODEL, TOKENS, file_entry, read_bundle
from asr_kd.runtime.recognizer import open_recognizer
from tests.helpers.mutations import bounded_memory, mutations

COUNT = 400
"""Files of each kind."""


@pytest.mark.slow
@pytest.mark.parametrize("name", [DESCRIPTION, TOKENS, MODEL])
def test_a_fuzzed_bundle_is_refused_or_the_same(damaged, name):
    """400 damaged copies of each file."""
    original, path = read_bundle(damaged), damaged / name
    content = path.read_bytes()
    outcomes: Counter[str] = Counter()
    with bounded_memory():
        for number, changed in enumerate(mutations(content, name, COUNT)):
            path.write_bytes(changed)
            try:
                found = read_bundle(damaged)
                assert (found.info, found.graph_bytes) == (original.info, original.graph_bytes), number
                outcomes["same"] += 1
            except AsrKdError as error:
                outcomes["refused" if str(damaged) in error.where else f"no file named: {error}"] += 1
    assert outcomes.keys() <= {"refused", "same"}, outcomes
    assert outcomes["refused"] > 0.9 * COUNT, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", [DESCRIPTION, TOKENS])
def test_a_fuzzed_bundle_with_hashes_that_fit_opens_or_is_refused(damaged, name):
    """400 copies each, whose hashes were made to fit: no traceback, and no end of the process."""
    path, index = damaged / name, damaged / DESCRIPTION
    content, described = path.read_bytes(), json.loads(index.read_text())
    outcomes: Counter[str] = Counter()
    with bounded_memory():
        for changed in mutations(content, f"hostile {name}", COUNT):
            if name == DESCRIPTION:
                try:
                    given = json.loads(changed)
                except (ValueError, RecursionError):
                    continue
                if not isinstance(given, dict):
                    continue
                path.write_text(json_text(given))
            else:
                path.write_bytes(changed)
                if not changed:
                    continue
                files = described["files"] | {"tokens": file_entry(path).model_dump()}
                index.write_text(json_text(described | {"files": files}))
            try:
                open_recognizer(damaged)
                outcomes["opened"] += 1
            except AsrKdError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 20, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.json", "tokens.txt", "model.safetensors"])
def test_a_fuzzed_model_folder_is_refused_or_the_same(model_folder, tmp_path, name):
    """400 damaged copies of each file."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    original, path = load_model(folder), folder / name
    content = path.read_bytes()
    with bounded_memory():
        for number, changed in enumerate(mutations(content, name, COUNT)):
            path.write_bytes(changed)
            try:
                found = load_model(folder)
            except AsrKdError:
                continue
            assert found.card == original.card, number
            own = original.model.state_dict()
            assert all(torch.equal(value, own[key]) for key, value in found.model.state_dict().items()), number
