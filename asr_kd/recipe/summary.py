"""Summary that a run prints at its end: the table, the places of the files, and the next command."""

import shlex
from collections.abc import Sequence

from rich.console import Console

from asr_kd.evaluation.report import read_results
from asr_kd.evaluation.report.terminal import terminal_table
from asr_kd.export.export_bundle import bundle_places
from asr_kd.recipe.context import RunContext
from asr_kd.recipe.layout import exported
from asr_kd.recipe.pipeline import STAGES


def print_summary(context: RunContext, command: Sequence[str], last: str, console: Console) -> None:
    """Print the results of the stages up to `last`; `command` is the recipe and its overrides."""
    work_dir = context.work_dir
    if last in ("evaluate", "export") and (work_dir / "report" / "results.json").is_file():
        console.print(terminal_table(read_results(work_dir / "report")))
        console.print(
            f"report:  {work_dir / 'report' / 'index.html'} (also results.md, results.json, hypotheses/ and cards/)",
            markup=False,
        )
    contexts = context.recipe.export.contexts
    bundles = [place for name in exported(context) for place in bundle_places(contexts, work_dir / "export" / name)]
    done = [bundle for bundle in bundles if (bundle / "bundle.json").is_file()]
    if last == "export" and done:
        for bundle in done:
            console.print(f"export:  {bundle}", markup=False)
        favourite = next((bundle for bundle in done if "student-kd" in bundle.parts[-2:]), done[-1])
        console.print(f"next:    asr-kd transcribe {shlex.quote(str(favourite))} AUDIO...", markup=False)
        return
    following = STAGES[STAGES.index(last) + 1] if last != STAGES[-1] else last
    console.print(f"next:    asr-kd run {shlex.join(command)} --from {following}", markup=False)
