"""The command line. Each module registers its commands, in the order of `--help`; `main` is the entry point."""

from asr_kd.cli import stage_commands, recipe_commands, corpus_commands, target_commands  # isort: skip
from asr_kd.cli import scoring_commands, model_commands  # isort: skip
from asr_kd.cli.app import app, main

__all__ = [
    "app",
    "corpus_commands",
    "main",
    "model_commands",
    "recipe_commands",
    "scoring_commands",
    "stage_commands",
    "target_commands",
]
