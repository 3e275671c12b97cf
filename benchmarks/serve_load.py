"""Concurrent real-time streams that one live server can serve, in a process of its own. Prints a table.

    python benchmarks/serve_load.py BUNDLE MANIFEST.jsonl [--clients 10 25 50 100] [--seconds 20] [--threads 1]

Each client sends utterances of the manifest one after another, a stream each, in packets of 60 ms at the time they
would come from a microphone. Packets are sent by a few processes of their own. Columns: `chunk lag`, from the packet
that completes a chunk to its partial, measured by the client; `final`, from the end of the audio to the last word
(decoding the model's tail included); `late`, the share of chunks that took longer than a
chunk lasts; `cores`, processor time of the server per second; `batch`, streams in a step on average; and the errors
of all transcripts against those of one stream alone, which must be 0. The limit is where lags stop being flat.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr_kd.corpora.manifest import read_manifest
from asr_kd.corpora.recordings import read_utterance
from asr_kd.runtime.recognizer import open_recognizer

PACKET = 960
LOOKAHEAD = 0.03


class Measured(NamedTuple):
    """What clients of one process saw."""

    lags: list[float]
    finals: list[float]
    texts: list[tuple[int, str]]
    refused: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--clients", type=int, nargs="*", default=[10, 25, 50, 100])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--senders", type=int, default=2, help="processes that play the clients")
    parser.add_argument("--boost", type=int, help="nice value of the server's and senders' session, such as -10")
    arguments = parser.parse_args()
    audio = [packets_of(read_utterance(utterance).numpy()) for utterance in read_manifest(arguments.manifest)[:60]]
    expected = alone(arguments.bundle, audio)
    server, address = start(arguments)
    print(f"{len(os.sched_getaffinity(0))} cores, load average {os.getloadavg()[0]:.1f} before (others work here too)")
    columns = "clients | streams | chunk lag p50 | p99 | final p50 | p99 | late | cores | batch | refused | wrong"
    print(columns.replace("|", " | "), flush=True)
    try:
        for clients in arguments.clients:
            print(row(clients, arguments, audio, expected, server.pid, address), flush=True)
    finally:
        server.terminate()
        server.wait(30)
    print(f"load average {os.getloadavg()[0]:.1f} after")


def packets_of(samples: np.ndarray) -> bytes:
    return (samples.clip(-1, 1) * 32_767).round().astype("<i2").tobytes()


def alone(bundle: Path, audio: list[bytes]) -> list[str]:
    """Return the transcript of each through one stream of its own, cut at the same endpoints."""
    recognizer = open_recognizer(bundle)
    texts = []
    for one in audio:
        stream = recognizer.stream(cut_at_endpoints=True)
        stream.accept(np.frombuffer(one, dtype="<i2").astype(np.float32) / 32_768)
        last = stream.final()
        texts.append(" ".join(filter(None, [*(item.text for item in stream.take_utterances()), last])))
    return texts


def start(arguments: argparse.Namespace) -> tuple["subprocess.Popen[str]", str]:
    """The server, in a session of its own, and where it listens."""
    command = [sys.executable, "-P", "-m", "asr_kd", "serve", str(arguments.bundle), "--port", "0"]
    command += ["--threads", str(arguments.threads), "--max-clients", "1000", "--limit", "busy_load=1000"]
    command += ["--limit", "max_clients_per_address=1000"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    line = server.stdout.readline() if server.stdout else ""
    if arguments.boost is not None:
        for pid in (server.pid, os.getpid()):
            Path(f"/proc/{pid}/autogroup").write_text(str(arguments.boost))
    return server, re.search(r"http://\S+", line)[0]  # type: ignore[index]


def row(
    clients: int, arguments: argparse.Namespace, audio: list[bytes], expected: list[str], pid: int, http: str
) -> str:
    before, used = metrics(http), cpu_seconds(pid)
    begun = time.monotonic()
    shares = [clients // arguments.senders + (n < clients % arguments.senders) for n in range(arguments.senders)]
    with ProcessPoolExecutor(arguments.senders) as pool:
        jobs = [
            pool.submit(play, http, share, n * 1_000, arguments.seconds, audio)
            for n, share in enumerate(shares)
            if share
        ]
        measured = [job.result() for job in jobs]
    after = metrics(http)
    seconds = time.monotonic() - begun
    lags, finals = [x for one in measured for x in one.lags], [x for one in measured for x in one.finals]
    texts = [pair for one in measured for pair in one.texts]
    wrong = sum(text != expected[number] for number, text in texts)
    batch = (after["sum"] - before["sum"]) / max(after["count"] - before["count"], 1)
    late = float(np.mean(np.array(lags) > 0.32)) if lags else float("nan")
    figures = [f"{clients:7}", f"{len(texts):7}", *milliseconds(lags), *milliseconds(finals), f"{late:6.1%}"]
    figures += [f"{(cpu_seconds(pid) - used) / seconds:5.2f}", f"{batch:5.1f}"]
    return " | ".join([*figures, f"{sum(len(one.refused) for one in measured):3}", f"{wrong:3}"])


def milliseconds(seconds: list[float]) -> list[str]:
    if not seconds:
        return ["-", "-"]
    return [f"{1000 * value:7.0f} ms" for value in np.percentile(seconds, [50, 99])]


def metrics(http: str) -> dict[str, float]:
    text = urllib.request.urlopen(http + "metrics").read().decode()
    names = ("count", "sum")
    return {name: float(re.search(rf"asr_kd_step_streams_{name} (\S+)", text)[1]) for name in names}  # type: ignore[index]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# -- the clients, in processes of their own --------------------------------------------------------------


def play(http: str, clients: int, seed: int, seconds: float, audio: list[bytes]) -> Measured:
    """So many clients for so long; what they saw."""
    measured = Measured([], [], [], [])

    async def everyone() -> None:
        until = time.monotonic() + seconds
        await asyncio.gather(*(person(http, seed + n, until, clients, audio, measured) for n in range(clients)))

    asyncio.run(everyone())
    return measured


async def person(http: str, seed: int, until: float, clients: int, audio: list[bytes], measured: Measured) -> None:
    generator = np.random.default_rng(seed)
    await asyncio.sleep(float(generator.uniform(0, 2.0)))  # clients are not in step
    while time.monotonic() < until:
        number = int(generator.integers(len(audio)))
        await utterance(http.replace("http", "ws", 1) + "stream", number, audio[number], measured)


async def utterance(address: str, number: int, audio: bytes, measured: Measured) -> None:
    from websockets.asyncio.client import connect

    sent: list[tuple[int, float]] = []
    texts: list[str] = []
    ended = 0.0
    async with connect(address, compression=None, ping_interval=None) as stream:
        await stream.send(json.dumps({"type": "start", "sample_rate": 16_000}))
        ready = json.loads(await stream.recv())
        if ready["type"] == "error":
            measured.refused.append(ready["code"])
            return

        async def send_all() -> None:
            nonlocal ended
            begun = time.monotonic()
            for packet in range(0, len(audio), 2 * PACKET):
                samples = min(packet // 2 + PACKET, len(audio) // 2)
                await asyncio.sleep(max(begun + samples / 16_000 - time.monotonic(), 0))
                await stream.send(audio[packet : packet + 2 * PACKET])
                sent.append((samples, time.monotonic()))
            await stream.send(json.dumps({"type": "end"}))
            ended = time.monotonic()

        sending = asyncio.create_task(send_all())
        async for text in stream:
            now, message = time.monotonic(), json.loads(text)
            if message["type"] in ("partial", "final") and message["decoded"]:
                needed = round((message["decoded"] + LOOKAHEAD) * 16_000)
                at = next((when for samples, when in sent if samples >= needed), None)
                if at is not None and message["type"] == "partial":
                    measured.lags.append(now - at)
            if message["type"] == "final":
                texts.append(message["text"])
            if message["type"] == "done":
                measured.finals.append(now - ended)
            if message["type"] == "error":
                measured.refused.append(message["code"])
        await sending
    measured.texts.append((number, " ".join(texts)))


if __name__ == "__main__":
    main()
