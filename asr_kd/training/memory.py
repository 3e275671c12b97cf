"""How the process holds on to memory while it trains on a CPU."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Options of glibc's `mallopt(3)`."""


def keep_freed_memory() -> None:
    """Keep what a step frees for the next one, instead of giving it back to the system and fetching it again.

    The system zeroes every page it hands out, which was 5 to 10 % of a training step. Memory never shrinks below its
    peak then. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 1 << 30)
        mallopt(M_TOP_PAD, 64 << 20)
