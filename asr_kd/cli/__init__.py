"""The command line. Each module registers its commands, in the order of `--help`; `main` is the entry point."""

from asr_kd.cli import stages  # isort: split

from asr_kd.cli import (
    compare,
    data,
    download,
    export,
    hypotheses,
    lm,
    manifests,
    pseudo_label,
    recipes,
    score,
    serve,
    sweep,
    targets,
)
from asr_kd.cli.app import app
from asr_kd.cli.entry import main

__all__ = [
    "app",
    "compare",
    "data",
    "download",
    "export",
    "hypotheses",
    "lm",
    "main",
    "manifests",
    "pseudo_label",
    "recipes",
    "score",
    "serve",
    "stages",
    "sweep",
    "targets",
]
