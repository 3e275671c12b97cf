"""The verb export: the students of a recipe, or one model folder, as bundles."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asr_kd.cli.app import Force, Only, Overrides, app, console
from asr_kd.cli.stages import run_stages

if TYPE_CHECKING:
    from asr_kd.models.settings import Context


@app.command()
def export(
    what: Annotated[Path, typer.Argument(metavar="RECIPE.yaml|MODEL_FOLDER", help="A recipe, or a trained model.")],
    overrides: Overrides = None,
    only: Only = None,
    force: Force = False,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="A model: where its bundle goes.")] = None,
    formats: Annotated[str | None, typer.Option("--format", metavar="sherpa,pt2", help="A model: which forms.")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="A model: also with 8-bit weights.")] = False,
    chunk: Annotated[
        list[int] | None, typer.Option(metavar="MS", help="A model: its chunk; several times, a bundle for each.")
    ] = None,
    left: Annotated[
        list[int] | None, typer.Option(metavar="MS", help="A model: how far it looks back; once, or for each chunk.")
    ] = None,
    speech: Annotated[
        list[Path] | None,
        typer.Option(metavar="MANIFEST", help="A model: held-out speech to verify on; else its run's own sets."),
    ] = None,
    licence: Annotated[str | None, typer.Option(metavar="NAME", help="A model: what it may be used under.")] = None,
) -> None:
    """Export students as bundles that sherpa-onnx, onnxruntime and torch run, and verify them.

    A recipe says the same under `export`: formats, int8, contexts, licence.

    \b
    Example:
      asr-kd export recipes/AN4/an4.yaml --only student-kd
      asr-kd export exp/an4/students/student-kd/model --int8 --format sherpa,pt2 --chunk 320 --chunk 640 --out bundles
    """
    given = {"--out": out, "--format": formats, "--int8": int8, "--chunk": chunk, "--left": left, "--speech": speech}
    if what.suffix in (".yaml", ".yml"):
        _refuse({**given, "--licence": licence}, "a model folder; a recipe says it under `export`")
        run_stages(what, overrides, "export", "export", force, only=only)
        return
    _refuse({"a setting": overrides, "--only": only, "--force": force}, "a recipe")
    from asr_kd.config import parse_settings
    from asr_kd.export.export_bundle import ExportSettings
    from asr_kd.recipe.export_model import export_model
    from asr_kd.recipe.messages import report_bundle

    said = {"formats": formats.split(",")} if formats else {}
    settings = parse_settings(ExportSettings, {**said, "int8": int8, "licence": licence}, "the command line")
    with console() as progress:
        contexts = _contexts(what, chunk or [], left or [])
        for folder, info in export_model(what, out, settings, contexts, speech or (), progress).items():
            report_bundle(progress, folder, info)


def _refuse(given: dict[str, object], owner: str) -> None:
    for name, value in given.items():
        if value:
            raise typer.BadParameter(f"{name} belongs to {owner}")


def _contexts(folder: Path, chunks: list[int], lefts: list[int]) -> "list[Context]":
    """Chunks and left contexts in frames, one for each chunk; none given, none said."""
    from asr_kd.models.subsampling import FRAME_SHIFT_MS
    from asr_kd.recipe.export_model import contexts_of

    if any(number < FRAME_SHIFT_MS or number % FRAME_SHIFT_MS for number in (*chunks, *lefts)):
        raise typer.BadParameter(f"chunks and left contexts are multiples of {FRAME_SHIFT_MS} ms")
    if lefts and len(lefts) not in (1, max(len(chunks), 1)):
        raise typer.BadParameter("give --left once, or once for each --chunk")
    frames = ([number // FRAME_SHIFT_MS for number in numbers] for numbers in (chunks, lefts))
    return contexts_of(folder, *frames)
