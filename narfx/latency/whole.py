"""A network's latency measured whole, against the base of its space in the same rounds."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.latency.measure import ROUNDS, open_network
from narfx.latency.table import Setting
from narfx.latency.timing import in_calling_thread, time_calls
from narfx.space.records import Vector

__all__ = ["WholeLatency", "time_whole"]


@dataclass(frozen=True)
class WholeLatency:
    """Milliseconds of one call of a network and of the base, and their ratio: its median and quartiles over rounds."""

    milliseconds: float
    base: float
    share: float
    quartiles: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "milliseconds": self.milliseconds,
            "base": self.base,
            "share": self.share,
            "quartiles": list(self.quartiles),
        }


def time_whole(net: Supernet, traced: Traced, vector: Vector, setting: Setting) -> WholeLatency:
    """Lower, export and time the base and one vector in turn, each round both.

    The ratio is taken round by round, so that a slow moment of the machine is in both.

    Args:
        net: The supernet; its vector and weights stay as they are.
        traced: The trace that it was made of.
        vector: The vector.
        setting: Threads, batch and provider.

    Raises:
        UsageError: onnxruntime does not have the provider.
        RunError: A network cannot be exported, or onnxruntime cannot run it.
    """
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            name: open_network(lower(net, each), traced, setting, Path(folder) / f"{name}.onnx")
            for name, each in (("base", traced.space.base), ("own", vector))
        }
        taken = time_calls(calls, cpu_time=in_calling_thread(setting.threads, setting.provider), rounds=ROUNDS)
    own, base = taken["own"], taken["base"]
    low, share, high = (float(each) for each in np.percentile(own / np.maximum(base, 1e-9), [25, 50, 75]))
    return WholeLatency(float(np.median(own)), float(np.median(base)), share, (low, high))
