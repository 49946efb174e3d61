"""Protect the global random generators: running a user's code must not change their state."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch

__all__ = ["global_generators"]


@contextlib.contextmanager
def global_generators(seed: int) -> Iterator[Callable[[], list[str]]]:
    """Seed torch's, Python's and NumPy's global generators for the block, and restore them after it.

    Yields:
        A function that returns the names of the generators that the block has used so far.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        begun = torch.get_rng_state(), random.getstate(), _numpy_state()

        def drawn() -> list[str]:
            moved = {
                "torch": not torch.equal(torch.get_rng_state(), begun[0]),
                "random": random.getstate() != begun[1],
                "numpy.random": _numpy_state() != begun[2],
            }
            return [name for name, has in moved.items() if has]

        try:
            yield drawn
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _numpy_state() -> tuple[object, ...]:
    name, keys, *rest = np.random.get_state()
    return name, np.asarray(keys).tobytes(), *rest
