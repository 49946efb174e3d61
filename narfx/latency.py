"""Latency in onnxruntime: several files measured in turn, in one process, so that they can be compared."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Latency", "measure_latency"]


@dataclass(frozen=True)
class Latency:
    """The median time of one call in milliseconds, and what it was measured with."""

    milliseconds: float
    batch: int
    threads: int
    provider: str


def measure_latency(
    files: Mapping[str, Path],
    input_shape: tuple[int, int, int],
    *,
    batch: int = 1,
    threads: int = 1,
    rounds: int = 100,
) -> dict[str, Latency]:
    """Run each file once a round, round after round, and take each one's median.

    What slows the machine down for a while slows all files alike; the first tenth of the rounds warms up.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    provider = "CPUExecutionProvider"
    sessions = {
        name: onnxruntime.InferenceSession(str(path), options, providers=[provider]) for name, path in files.items()
    }
    image = np.random.default_rng(0).standard_normal((batch, *input_shape), dtype=np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: image})
            seconds[name].append(time.perf_counter() - start)
    return {
        name: Latency(float(np.median(taken[len(taken) // 10 :])) * 1e3, batch, threads, provider)
        for name, taken in seconds.items()
    }
