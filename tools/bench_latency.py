"""Latency as a budget where MACs mislead: networks timed whole against their base."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch

from narfx.compiler.front_end import trace
from narfx.compiler.supernet import Supernet
from narfx.inputs.model_ref import load_model
from narfx.latency.metric import LatencyOptions, open_latency
from narfx.latency.whole import WholeLatency, time_whole
from narfx.search.whole_latency import keep_in_time
from narfx.space.budget import Budget
from narfx.space.records import Vector
from narfx.space.sampling import sample_window
from narfx.support.seeds import numpy_generator

__all__ = ["PAPER", "QUICK_TIMED", "TIMED", "latency_rows"]

TIMED, QUICK_TIMED = ("torchvision:resnet18", (3, 32, 32)), ("narfx:resnet8", (3, 32, 32))
PAPER: Vector = (1, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2)
"""The vector of the NAR paper (arXiv 1905.02341, Table 5) for ResNet-18."""
Row: TypeAlias = tuple[str, float | None, float, tuple[float, float], tuple[float, float]]
"""A name, a bound, a share of the base's latency with its quartiles, milliseconds of the base and of the network."""
_SHARE, _NEAR, _DRAWN = 0.8, 0.02, 5


def latency_rows(model: str, shape: tuple[int, int, int]) -> Iterator[Row]:
    """The paper's vector, and one found within ``latency<=0.8x``.

    The second is found as a search does it that comes near its budget: of five vectors that are predicted to take at
    least 0.78 of the base's latency, timed whole one after the other, the first that keeps the budget.
    """
    traced = trace(load_model(model), input=shape)
    traced, report = open_latency(traced, LatencyOptions(latency=True, threads=torch.get_num_threads()))
    net, space = Supernet(traced), traced.space
    base = space.cost(space.base)
    space = space.within(Budget.parse(f"latency<={_SHARE}x", base))

    def time(vector: Vector) -> WholeLatency:
        return time_whole(net, traced, vector, report.table.setting)

    def row(vector: Vector, what: str, bound: float | None, found: WholeLatency) -> Row:
        name = f"latency of {what} / base, {model} (MACs {space.cost(vector)['macs'] / base['macs']:.2f})"
        return name, bound, found.share, found.quartiles, (found.base, found.milliseconds)

    if len(PAPER) == len(space.slots):
        yield row(PAPER, "the paper's vector", None, time(PAPER))
    bound, rng = _SHARE * base["latency"], numpy_generator(0, "bench")
    drawn = sample_window(space, _DRAWN, bound - _NEAR * base["latency"], bound, rng, "latency")
    record, kept = keep_in_time([space.describe(vector) for vector in drawn], space, time).kept
    yield row(space.read(record), f"a vector within latency<={_SHARE}x", _SHARE, kept)
