"""Named seeds: every random draw of a run comes from a generator whose seed is derived from the run's seed.

So no random state is stored: the draws of epoch 7 depend only on the seed and the number 7, and a killed run resumes
with the same draws.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["derive", "numpy_generator", "torch_generator"]


def derive(seed: int, *keys: str | int) -> int:
    """A 63-bit seed for the draws named by ``keys``."""
    text = "/".join(map(str, (seed, *keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *keys: str | int) -> np.random.Generator:
    """A numpy generator for the draws named by ``keys``."""
    import numpy as np  # takes a tenth of a second, and the command line needs the rest of this module

    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: str | int) -> torch.Generator:
    """A torch generator (CPU) for the draws named by ``keys``."""
    import torch  # takes seconds, and what only reads a run does without it

    return torch.Generator().manual_seed(derive(seed, *keys))
