"""The verb that puts a model online: serve."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from asr_kd.cli.app import Decoding, Hotwords, ModelPath, app

_WHERE = "asr-kd serve"


@app.command()
def serve(
    model: ModelPath,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for everyone who reaches it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.")] = 8080,
    token: Annotated[
        str | None, typer.Option(envvar="ASR_KD_TOKEN", help="What clients must know; better in the environment.")
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
    grace: Annotated[float, typer.Option(metavar="SECONDS", help="Streams may go on so long after a signal.")] = 5.0,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Another limit of asr_kd/serve/settings.py, such as idle_seconds=60."),
    ] = None,
) -> None:
    """Hear live speech: a websocket for clients, and a page with a microphone. Ends in order on Ctrl-C or SIGTERM.

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
    for door in settings.open_doors():
        typer.echo(f"asr-kd: {door}", err=True)
    recognizer = open_recognizer(model, num_threads=threads, decoding=read_decoding(decoding, hotword or []))
    folder = model.resolve()
    name = folder.parent.name if folder.name == "model" else folder.name  # a run's students/NAME/model
    asyncio.run(_serve(Server(recognizer, settings, name)))


async def _serve(server: Any) -> None:
    """Until a signal comes; a second one does not wait."""
    from asr_kd.serve.server import serve_forever

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def asked() -> None:
        typer.echo("finishing the streams that are open; once more to leave at once", err=True)
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    await serve_forever(server, stop, lambda address: typer.echo(f"listening on {address}"))
