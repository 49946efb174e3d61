"""A ratio of times, measured in one process: two calls take turns, so that a drift of the machine falls on both."""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

MakeCall = Callable[[nn.Module], Callable[[], object]]
SAMPLE = 0.004  # seconds: a sample is as many calls as last this long


@dataclass(frozen=True)
class Ratio:
    """A time relative to its baseline: median and quartiles over rounds, and the times in milliseconds."""

    name: str
    median: float
    quartiles: tuple[float, float]
    baseline_ms: float
    measured_ms: float
    bound: float | None = None

    @property
    def kept(self) -> bool | None:
        """Whether the ratio is within its bound; ``None`` if it has none."""
        return None if self.bound is None else self.median <= self.bound

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "ratio": self.median,
            "quartiles": list(self.quartiles),
            "bound": self.bound,
            "kept": self.kept,
            "baseline_ms": self.baseline_ms,
            "measured_ms": self.measured_ms,
        }


def measure(calls: Mapping[str, Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of one call of each, round by round; every second round goes through them backwards."""
    repeats = {name: _repeats(call) for name, call in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    try:
        for index in range(rounds):
            for name in list(calls) if index % 2 == 0 else list(calls)[::-1]:
                taken[name].append(seconds_of(calls[name], repeats[name]))
    finally:
        gc.enable()
    return list(taken.values())


def _repeats(call: Callable[[], object]) -> int:
    for _ in range(2):  # warms up
        call()
    return max(round(SAMPLE / max(seconds_of(call, 1), 1e-9)), 1)


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    # With one thread the processor time of the process: the turns of other processes are not counted.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def compare(
    name: str, baseline: nn.Module, measured: nn.Module, call: MakeCall, rounds: int, bound: float | None = None
) -> Ratio:
    """Calls of one module over calls of another.

    Fresh copies of both are made every few rounds: where weights come to lie in memory is worth some percent.
    """
    taken: tuple[list[float], list[float]] = ([], [])
    pairs = max(rounds // 20, 1)
    for pair in range(pairs):
        order = (baseline, measured) if pair % 2 == 0 else (measured, baseline)
        copies = [copy.deepcopy(module) for module in order][:: 1 if pair % 2 == 0 else -1]
        seconds = measure({"baseline": call(copies[0]), "measured": call(copies[1])}, rounds // pairs)
        for mine, found in zip(taken, seconds, strict=True):
            mine.extend(found)
    return ratio_of(name, *taken, bound)


def ratio_of(name: str, baseline: Sequence[float], measured: Sequence[float], bound: float | None = None) -> Ratio:
    low, middle, high = np.percentile(np.array(measured) / np.array(baseline), [25, 50, 75])
    times = (1000 * float(np.median(baseline)), 1000 * float(np.median(measured)))
    return Ratio(name, float(middle), (float(low), float(high)), *times, bound)
