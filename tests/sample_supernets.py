"""Supernets of small networks, for the tests of several rooms."""

from __future__ import annotations

from sample_networks import Chain, settled
from torch import nn

import narfx
from narfx.compiler.supernet import Supernet

SHAPE = (3, 8, 8)


def supernet(model: nn.Module | None = None, *, separate_norms: bool = False) -> Supernet:
    model = settled(Chain()) if model is None else model
    return Supernet(narfx.trace(model, input=SHAPE), separate_norms=separate_norms)
