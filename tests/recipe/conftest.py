"""One whole run of the tiny recipe for all tests of a session; whoever changes it takes a copy."""

import shutil
from pathlib import Path

import pytest

from tests.helpers.tiny_run import Outcome, Run, start


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> tuple[Run, Outcome]:
    """The recipe from nothing to the bundle, in a process of its own, and what it said."""
    for package in ("espeakng_loader", "onnx", "onnxruntime", "sherpa_onnx"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("tiny")
    run = Run(folder / "run", folder / "corpus")
    process = start(run.words("run"))
    out, err = process.communicate(timeout=600)
    return run, Outcome(process.returncode, out, err)


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
