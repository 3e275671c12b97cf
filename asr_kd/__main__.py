"""Entry point of the command line, `asr-kd` and `python -m asr_kd`: handles Ctrl-C, then imports the commands."""

import os
import signal
import sys
from types import FrameType

from asr_kd.errors import INTERRUPT_CODE, INTERRUPTED

_IMPORTING = "<frozen importlib._bootstrap>"


def main() -> None:
    """Run the command line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _interrupt)
    from asr_kd.cli import main as run

    try:
        run()
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:  # while the interpreter ends, it would print a traceback
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or end the process during an import: extension modules replace or ignore exceptions."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            sys.stdout.flush()
            os.write(2, f"asr-kd: {INTERRUPTED}\n".encode())
            os._exit(INTERRUPT_CODE)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
