"""The command that exports one trained model without a recipe: export-model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_kd.cli.app import app, console

if TYPE_CHECKING:
    from asr_kd.models.settings import Context


@app.command("export-model")
def export_model(
    folder: Annotated[Path, typer.Argument(metavar="MODEL_FOLDER", help="A trained model's folder.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where the bundle goes; else its run.")] = None,
    formats: Annotated[str | None, typer.Option("--format", metavar="sherpa,pt2,web", help="Which forms.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Also with 8-bit weights.")] = False,
    chunk: Annotated[
        list[int] | None, typer.Option(metavar="MS", help="Chunk duration; repeat it for several bundles.")
    ] = None,
    left: Annotated[
        list[int] | None, typer.Option(metavar="MS", help="Left context; once, or once for each chunk.")
    ] = None,
    speech: Annotated[
        list[Path] | None,
        typer.Option(metavar="MANIFEST", help="Held-out utterances to verify on; else the sets of its run."),
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="NAME", help="The licence to state in the bundle.")] = None,
) -> None:
    """Export one trained model as bundles for sherpa-onnx, onnxruntime and torch, and verify them.

    \b
    Example:
      asr-kd export-model exp/an4/students/student-kd/model --int8 --chunk 320 --chunk 640 --out bundles
    """
    from asr_kd.config import parse_settings
    from asr_kd.export.export_bundle import ExportSettings
    from asr_kd.recipe import export_model as exporting
    from asr_kd.recipe.messages import report_bundle

    given = {"formats": formats.split(",")} if formats else {}
    settings = parse_settings(ExportSettings, {**given, "int8": int8, "licence": licence}, "the command line")
    with console() as progress:
        contexts = _contexts(folder, chunk or [], left or [])
        written = exporting.export_model(folder, out, settings, contexts, speech or (), progress)
        for place, info in written.items():
            report_bundle(progress, place, info)


def _contexts(folder: Path, chunks: list[int], lefts: list[int]) -> "list[Context]":
    """Chunks and left contexts in frames, one pair for each chunk; empty when none is given."""
    from asr_kd.models.subsampling import FRAME_SHIFT_MS
    from asr_kd.recipe.export_model import contexts_of

    if any(number < FRAME_SHIFT_MS or number % FRAME_SHIFT_MS for number in (*chunks, *lefts)):
        raise typer.BadParameter(f"chunks and left contexts are multiples of {FRAME_SHIFT_MS} ms")
    if lefts and len(lefts) not in (1, max(len(chunks), 1)):
        raise typer.BadParameter("give --left once, or once for each --chunk")
    frames = ([number // FRAME_SHIFT_MS for number in numbers] for numbers in (chunks, lefts))
    return contexts_of(folder, *frames)
