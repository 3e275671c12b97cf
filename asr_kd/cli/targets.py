"""Verbs about stored soft targets: info, verify, sample."""

import typer

from asr_kd.cli.app import app

targets_app = typer.Typer(help="Look into stored soft targets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(targets_app, name="targets")
