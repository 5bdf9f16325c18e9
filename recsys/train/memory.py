"""Keeps the memory that every step frees and takes again.

Stability: internal
"""

from __future__ import annotations

import ctypes
import functools
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h


@functools.cache
def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep freed blocks of activations for the next step.

    By default every tensor of some MiB is mapped and unmapped anew, and the kernel clears each of
    its pages: 8 % of the CPU time of a DeepFM step of 4,096 rows. Blocks of 256 MiB and more
    (tables) are still mapped on their own. It holds for the whole process, so only training does
    it.

    Returns:
        Whether the allocator took the settings; other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    settings = {_MMAP_THRESHOLD: 1 << 28, _TRIM_THRESHOLD: (1 << 31) - 1, _TOP_PAD: 1 << 26}
    taken = [mallopt(name, value) for name, value in settings.items()]
    return all(answer == 1 for answer in taken)
