"""Seeds by name: every random draw of a run comes from a generator whose seed is derived from the run's seed.

So nothing random need be stored: what epoch 7 draws depends on the seed and on the number 7 alone, and a run that
was killed goes on as if it had not been.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["derive", "numpy_generator", "torch_generator"]


def derive(seed: int, *keys: str | int) -> int:
    """A seed of 63 bits for the draws named by ``keys``."""
    text = "/".join(map(str, (seed, *keys)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *keys: str | int) -> np.random.Generator:
    """A numpy generator for the draws named by ``keys``."""
    return np.random.default_rng(derive(seed, *keys))


def torch_generator(seed: int, *keys: str | int) -> torch.Generator:
    """A torch generator (CPU) for the draws named by ``keys``."""
    return torch.Generator().manual_seed(derive(seed, *keys))
