"""What computing common beginnings once saves in the rewards of a batch of proposals, beside what MACs allow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import batch_statistics
from narfx.space.records import Vector
from narfx.space.space import SearchSpace

__all__ = ["DECIDED", "LOTS", "drawn", "prefix_calls"]

LOTS = (5, 20, 50)
DECIDED = {"uniform": 0.0, "half decided": 0.5, "decided": 0.85}
"""How a policy draws a slot: with this probability its favourite, else uniformly."""


def drawn(space: SearchSpace, count: int, decided: float, seed: int = 0) -> list[Vector]:
    """Distinct vectors of a policy that favours one choice a slot."""
    rng = np.random.default_rng([seed, count, round(100 * decided)])
    favourite = [int(rng.choice(slot.legal)) for slot in space.slots]
    found: dict[Vector, None] = {}
    while len(found) < count:
        vector = tuple(
            best if rng.random() < decided else int(rng.choice(slot.legal))
            for best, slot in zip(favourite, space.slots, strict=True)
        )
        found.setdefault(vector)
    return list(found)


def prefix_calls(
    net: Supernet, vectors: list[Vector], x: Tensor
) -> tuple[Callable[[], object], Callable[[], object], float]:
    """The forward passes of all vectors one by one, the same with common beginnings, and the ratio of their MACs."""
    prefixes = Prefixes(net)

    @torch.inference_mode()
    def alone() -> None:
        with batch_statistics(net):
            for vector in vectors:
                net.set_vector(vector)
                net(x)

    @torch.inference_mode()
    def shared() -> None:
        with batch_statistics(net):
            for _ in prefixes.over(vectors, len(x)):
                prefixes(x)

    shared()  # measures the sizes
    flops = []
    for call in (alone, shared):
        with FlopCounterMode(display=False) as counter:
            call()
        flops.append(counter.get_total_flops())
    return alone, shared, flops[0] / flops[1]
