"""Entry point: sets up the process and turns expected errors into one message and an exit code."""

import errno
import logging
import os
import sys
import warnings

from rich.console import Console

from asr_kd.cli.app import app
from asr_kd.errors import AsrKdError

SYSTEM_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.EMFILE}
)
"""Errors of the system anywhere: full disk, missing permission, too many open files."""


def main() -> None:
    """Run the command line; an expected error is one message and an exit code, never a traceback."""
    # Before torch is imported. On a busy 2-core machine, threads that spin while they wait took 1,685 ms a training
    # step of the tiny model; waiting passively, 107 ms.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("SB_LOG_LEVEL", "WARNING")  # speechbrain announces its precision settings otherwise
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\..*|torchaudio\..*|speechbrain\..*")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        app()
    except AsrKdError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in SYSTEM_ERRORS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _print_error(f"{where}{error.strerror}. Finished work is kept: fix the cause and run the same command again")
        sys.exit(1)
    except KeyboardInterrupt:
        _print_error("interrupted; run the same command again to resume from the last checkpoint")
        sys.exit(130)


def _print_error(message: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"asr-kd: {message}", markup=False)
