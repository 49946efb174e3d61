"""The garbage collector, paused while a graph is built."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Run the block, or the function that this decorates, without garbage collections.

    A graph of thousands of nodes is a hundred thousand small objects that all stay: with the collector looking
    through them again and again, building one takes twice as long and more than linear time.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
