"""The command line. Each module registers its commands, in the order of `--help`; `main` is the entry point."""

from asr_kd.cli import (  # isort: skip
    stage_commands,
    corpus_commands,
    target_commands,
    lm_commands,
    model_commands,
    score_commands,
    recipe_commands,
)
from asr_kd.cli.app import app, main

__all__ = [
    "app",
    "corpus_commands",
    "lm_commands",
    "main",
    "model_commands",
    "recipe_commands",
    "score_commands",
    "stage_commands",
    "target_commands",
]
