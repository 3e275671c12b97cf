"""One exported bundle for all tests of a session; whoever damages it takes a copy."""

import json
import shutil
from pathlib import Path

import pytest
from torch import Tensor

from asr_kd.export.readme import write_readme
from asr_kd.files import json_text
from asr_kd.runtime.bundle import DESCRIPTION, INT8, PT2, read_bundle
from tests.helpers.tiny_bundle import bundle_waveforms, tiny_bundle


@pytest.fixture(scope="session")
def waveforms() -> list[Tensor]:
    return bundle_waveforms()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory) -> Path:
    return tiny_bundle(tmp_path_factory).model


@pytest.fixture(scope="session")
def forms(tmp_path_factory) -> Path:
    """A bundle of every form."""
    return tiny_bundle(tmp_path_factory).forms


@pytest.fixture(scope="session")
def bundle(tmp_path_factory, forms) -> Path:
    """The same with model.onnx alone, as an export without further settings writes it."""
    folder = Path(shutil.copytree(forms, tmp_path_factory.mktemp("export") / "student-kd"))
    description = json.loads((folder / DESCRIPTION).read_text())
    for form, name in {"int8": INT8, "pt2": PT2}.items():
        (folder / name).unlink()
        del description["files"][form]
    (folder / DESCRIPTION).write_text(json_text(description | {"int8_wer": {}}))
    write_readme(folder, read_bundle(folder).info, None)
    return folder


@pytest.fixture
def damaged(bundle, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(bundle, tmp_path / "student-kd"))
