"""The command line: verbs that parse, call and print. No logic lives here.

Each module registers its verbs with the one application, in the order in which `--help` shows them; `main` is the
way in.
"""

from asr_kd.cli import stages  # isort: split

from asr_kd.cli import compare, data, export, hypotheses, lm, manifests, pseudo_label, score, serve, sweep, targets
from asr_kd.cli.app import app
from asr_kd.cli.entry import main

__all__ = [
    "app",
    "compare",
    "data",
    "export",
    "hypotheses",
    "lm",
    "main",
    "manifests",
    "pseudo_label",
    "score",
    "serve",
    "stages",
    "sweep",
    "targets",
]
