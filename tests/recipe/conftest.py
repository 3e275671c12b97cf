"""One whole run of the tiny recipe for all tests of a session; whoever changes it takes a copy."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers.made_once import made_once
from tests.helpers.processes import Started, command_line
from tests.helpers.tiny_run import Outcome, Run


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> tuple[Run, Outcome]:
    """The recipe from nothing to the bundle, in a process of its own, and what it said."""
    for package in ("espeakng_loader", "onnx", "onnxruntime", "sherpa_onnx"):
        pytest.importorskip(package)

    def make(folder: Path) -> None:
        process = Started(command_line, *Run(folder / "run", folder / "corpus").words("run"))
        (folder / "outcome.json").write_text(json.dumps(process.end()))

    folder = made_once(tmp_path_factory, "tiny-run", make)
    return Run(folder / "run", folder / "corpus"), Outcome(*json.loads((folder / "outcome.json").read_text()))


@pytest.fixture(scope="session")
def finished(first_run) -> Run:
    """The finished run; not to be changed."""
    run, outcome = first_run
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture
def copy(finished, tmp_path) -> Run:
    """A copy of the finished run, over the same corpus, to be changed."""
    return Run(Path(shutil.copytree(finished.work_dir, tmp_path / "run")), finished.corpus_root)
