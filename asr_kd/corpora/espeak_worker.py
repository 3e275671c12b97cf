"""Synthesize one speaker's sentences with eSpeak NG's C library, in a process of its own.

The library keeps global state (phases, random numbers), so a fresh process for every speaker makes the samples depend
on that speaker's sentences only; a crash of the library does not end the caller. Run as a script with a JSON job on
standard input; it imports the standard library only.
"""

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

SAMPLE_RATE = 22_050
"""Sample rate of the library, Hz."""

# Constants of espeak-ng/speak_lib.h.
_SYNCHRONOUS = 2
_DO_NOT_EXIT = 0x8000
_RATE, _PITCH = 1, 3
_BY_CHARACTER = 1
_UTF8 = 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def main() -> None:
    """Read a job and write one raw file (16-bit, 22,050 Hz, mono) per sentence: 0.pcm, 1.pcm …"""
    job: dict[str, Any] = json.load(sys.stdin)
    library = ctypes.CDLL(job["library"])
    pieces: list[bytes] = []

    @_Callback
    def receive(samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, job["data"].encode(), _DO_NOT_EXIT)
    if rate != SAMPLE_RATE:
        sys.exit(f"eSpeak NG started with {rate} (expected {SAMPLE_RATE} Hz)")
    library.espeak_SetSynthCallback(receive)
    if library.espeak_SetVoiceByName(job["voice"].encode()) != 0:
        sys.exit(f"eSpeak NG has no voice {job['voice']!r}")
    library.espeak_SetParameter(_RATE, job["rate"], 0)
    library.espeak_SetParameter(_PITCH, job["pitch"], 0)
    library.espeak_ng_SetRandSeed(ctypes.c_long(job["seed"]))
    for index, text in enumerate(job["texts"]):
        pieces.clear()
        encoded = text.encode()
        if library.espeak_Synth(encoded, len(encoded) + 1, 0, _BY_CHARACTER, 0, _UTF8, None, None) != 0:
            sys.exit(f"eSpeak NG could not synthesize {text!r}")
        library.espeak_Synchronize()
        Path(job["folder"], f"{index}.pcm").write_bytes(b"".join(pieces))


if __name__ == "__main__":
    main()
