"""What tests of evaluations share: settings that measure no time, and tables as a terminal prints them."""

import io

from rich.console import Console

from asr_kd.evaluation.settings import EvaluationSettings

QUICK = EvaluationSettings(
    normalizer="none", bootstrap_samples=200, rtf_utterances=0, sample_utterances=0, memory=False
)
"""Errors only."""


TEXTS = {
    "ann-1": "one two three four",
    "ann-2": "five six",
    "bob-1": "seven eight nine ten",
    "bob-2": "",
    "eve-1": "one two",
    "eve-2": "three four five six",
}
"""References of a tiny test set of three speakers, by utterance."""


def printed(table, width=80):
    """The text of a table in a terminal of 80 columns."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()
