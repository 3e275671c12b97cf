"""Commands about a trained model: export-model, transcribe, serve."""

import asyncio
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from asr_kd.cli.app import ChannelPolicy, Decoding, Hotwords, ModelPath, WordForm, app, console

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
    right: Annotated[
        list[int] | None, typer.Option(metavar="MS", help="Right context; once, or once for each chunk.")
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
    from asr_kd.export.export_bundle import ExportSettings, Format
    from asr_kd.recipe import export_model as exporting

    given = {"formats": formats.split(",")} if formats else {}
    unknown = [form for form in given.get("formats", []) if form not in get_args(Format)]
    if unknown:
        raise typer.BadParameter(
            f"{unknown[0]!r}; expected {', '.join(get_args(Format))}, or several with commas between them",
            param_hint="--format",
        )
    settings = parse_settings(ExportSettings, {**given, "int8": int8, "licence": licence}, "the command line")
    with console() as progress:
        contexts = _contexts(folder, chunk or [], left or [], right or [])
        exporting.export_model(folder, out, settings, contexts, speech or (), progress)


def _contexts(folder: Path, chunks: list[int], lefts: list[int], rights: list[int]) -> "list[Context]":
    """Chunks, left and right contexts in frames, one context for each chunk; empty when none is given."""
    from asr_kd.models.layers import FRAME_SHIFT_MS
    from asr_kd.recipe.export_model import contexts_of

    if any(number < FRAME_SHIFT_MS for number in (*chunks, *lefts)) or any(number < 0 for number in rights):
        raise typer.BadParameter(f"chunks and left contexts are at least {FRAME_SHIFT_MS} ms, right contexts 0")
    if any(number % FRAME_SHIFT_MS for number in (*chunks, *lefts, *rights)):
        raise typer.BadParameter(f"chunks and contexts are multiples of {FRAME_SHIFT_MS} ms")
    for option, numbers in (("--left", lefts), ("--right", rights)):
        if numbers and len(numbers) not in (1, max(len(chunks), 1)):
            raise typer.BadParameter(f"give {option} once, or once for each --chunk")
    frames = ([number // FRAME_SHIFT_MS for number in numbers] for numbers in (chunks, lefts, rights))
    return contexts_of(folder, *frames)


@app.command()
def transcribe(
    model: ModelPath,
    audio: Annotated[list[Path], typer.Argument(metavar="AUDIO", help="Audio files, of any length.")],
    channels: Annotated[ChannelPolicy, typer.Option(help="What to do with several channels.")] = "refuse",
    decoding: Decoding = None,
    hotword: Hotwords = None,
    words: Annotated[
        WordForm | None, typer.Option(help="Print words with times and confidences instead of lines of text.")
    ] = None,
) -> None:
    """Print transcripts of audio files, through the streaming path for a streaming model.

    \b
    Example:
      asr-kd transcribe exp/an4/export/student-kd my-recording.wav --words ctm
    """
    from asr_kd.decoding.settings import read_decoding
    from asr_kd.errors import AudioError, EvaluationError
    from asr_kd.runtime.transcribe import transcribe_files, transcript_lines

    failed = False
    settings = read_decoding(decoding, hotword or [])
    for transcript in transcribe_files(model, audio, channels, settings, words):
        try:
            if transcript.error is not None:
                raise transcript.error
            typer.echo(transcript_lines(transcript, words), nl=False)
        except (AudioError, EvaluationError) as error:  # the other files follow
            failed = True
            typer.echo(f"asr-kd: {error}", err=True)
    if failed:
        raise typer.Exit(1)


_WHERE = "asr-kd serve"


@app.command()
def serve(
    model: ModelPath,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for everyone who reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option(envvar="ASR_KD_TOKEN", help="Token that clients must send; better set in the environment."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(metavar="PEM", help="Certificate chain; needs --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its key.")] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="A web page that may connect besides our own; may be repeated."),
    ] = None,
    max_clients: Annotated[int, typer.Option(help="Streams at once.")] = 64,
    pause: Annotated[float, typer.Option(metavar="SECONDS", help="Silence that ends an utterance.")] = 1.2,
    longest: Annotated[float, typer.Option(metavar="SECONDS", help="An utterance ends after so long.")] = 20.0,
    decoding: Decoding = None,
    hotword: Hotwords = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of a step.")] = 1,
    grace: Annotated[float, typer.Option(metavar="SECONDS", help="Time for open streams to end after a signal.")] = 5.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Another limit of asr_kd/serve/settings.py, such as idle_seconds=60."),
    ] = None,
) -> None:
    """Transcribe live audio: a websocket for clients, and a page with a microphone; stops on Ctrl-C or SIGTERM.

    \b
    Example:
      asr-kd serve exp/an4/export/student-kd
    """
    from asr_kd.config import apply_overrides, parse_settings
    from asr_kd.decoding.settings import read_decoding
    from asr_kd.runtime.recognizer import open_recognizer
    from asr_kd.serve.server import Server
    from asr_kd.serve.settings import ServeSettings

    given: dict[str, Any] = {
        **{"host": host, "port": port, "token": token, "tls_cert": tls_cert, "tls_key": tls_key},
        **{"origins": tuple(origin or ()), "max_clients": max_clients, "grace_seconds": grace},
        "endpoint": {"rule2_min_trailing_silence": pause, "rule3_min_utterance_length": longest},
    }
    settings = parse_settings(ServeSettings, apply_overrides(given, limit or []), _WHERE)
    for warning in settings.access_warnings():
        typer.echo(f"asr-kd: {warning}", err=True)
    recognizer = open_recognizer(model, num_threads=threads, decoding=read_decoding(decoding, hotword or []))
    folder = model.resolve()
    name = folder.parent.name if folder.name == "model" else folder.name  # a run's students/NAME/model
    asyncio.run(_serve(Server(recognizer, settings, name)))


async def _serve(server: Any) -> None:
    """Serve until a signal; a second signal stops at once."""
    from asr_kd.serve.server import serve_forever

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal() -> None:
        typer.echo("finishing open streams; press Ctrl-C again to stop at once", err=True)
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await serve_forever(server, stop, lambda address: typer.echo(f"listening on {address}"))


@app.command("push")
def push_folder(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A bundle, a model folder, or soft targets.")],
    repository: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository; it is made where needed.")],
    card: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Model card; else that of the report.")] = None,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch; main without it.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; else it is private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it the list is only printed.")] = False,
) -> None:
    """Upload a folder with its model card to the hub, in one commit; prints what would be uploaded without --yes.

    \b
    Example:
      asr-kd push exp/an4/export/student-kd me/an4-student --yes
    """
    from asr_kd.hub import plan_push, push

    upload = plan_push(folder, repository, card)
    for line in upload.lines():
        typer.echo(line)
    if upload.card is None:
        typer.echo("  no model card: asr-kd evaluate writes one, or name a file with --card")
    if not yes:
        typer.echo("nothing is uploaded without --yes")
        return
    typer.echo(push(upload, private=not public, revision=revision))
