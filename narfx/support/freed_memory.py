"""Keep the memory of freed tensors for the next ones, instead of giving it back to the system at each step."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the names of glibc's mallopt
_NEVER, _LARGE = 2**31 - 1, 2**30  # bytes


def keep_freed_memory() -> bool:
    """Tell glibc's allocator so; returns whether it was told.

    A training step frees its activations, and the next one asks for as much again: by default the system clears each of
    these pages anew, which takes 6 % of the processor time of a training (BENCHMARKS.md). A process then keeps the
    memory of its peak until it ends; only a block of 1 GiB and more is given back at once. Other allocators, and
    settings of the user's own (``MALLOC_*`` or ``GLIBC_TUNABLES`` in the environment), stay as they are.
    """
    own = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.getenv("GLIBC_TUNABLES", "")
    if own or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _NEVER) and mallopt(_MMAP_THRESHOLD, _LARGE))
