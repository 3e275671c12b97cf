"""Synthesize one speaker's sentences with SVOX Pico, in a process of its own.

Run as a script with a JSON job on standard input; it imports ttspico and the standard library.
"""

import json
import sys
from pathlib import Path
from typing import Any

SAMPLE_RATE = 16_000
"""Sample rate of the library, Hz."""


def main() -> None:
    """Read a job and write one raw file (16-bit, 16 kHz, mono) per sentence: 0.pcm, 1.pcm …"""
    from ttspico import TtsEngine

    job: dict[str, Any] = json.load(sys.stdin)
    engine = TtsEngine(job["voice"])
    engine.rate, engine.pitch = job["rate"], job["pitch"]
    for index, text in enumerate(job["texts"]):
        Path(job["folder"], f"{index}.pcm").write_bytes(engine.speak(text) or b"")


if __name__ == "__main__":
    main()
