"""Check the additive latency prediction on whole networks: random vectors are lowered, exported and timed in turn."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.latency.measure import ROUNDS, open_network
from narfx.latency.table import Setting
from narfx.latency.timing import in_calling_thread, time_calls
from narfx.runs.progress import Reporter, Silent
from narfx.space.records import Vector
from narfx.space.sampling import FeasibleSampler
from narfx.support.seeds import numpy_generator

__all__ = ["LatencyCheck", "check_latency"]

_DRAWS = 100


@dataclass(frozen=True)
class LatencyCheck:
    """Predicted and measured latency of some vectors, and how well they agree.

    Error and correlations use only the random vectors, because the prediction for the base is itself a measurement.

    Attributes:
        setting: The setting of the measurement.
        vectors: The base's vector first, then the random ones.
        predicted: Milliseconds per call.
        measured: Milliseconds per call.
    """

    setting: Setting
    vectors: tuple[Vector, ...]
    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    @property
    def error(self) -> float:
        """The mean absolute error of the random vectors' predictions, relative to the measured latency."""
        predicted, measured = np.array(self.predicted[1:]), np.array(self.measured[1:])
        return float(np.mean(np.abs(predicted - measured) / measured))

    @property
    def correlations(self) -> dict[str, float | None]:
        """Kendall's tau-b and Spearman's rho; ``None`` if all predictions or all measurements are equal."""
        from scipy import stats

        predicted, measured = self.predicted[1:], self.measured[1:]
        if len(set(predicted)) < 2 or len(set(measured)) < 2:
            return {"kendall_tau": None, "spearman": None}
        return {
            "kendall_tau": float(stats.kendalltau(predicted, measured).statistic),
            "spearman": float(stats.spearmanr(predicted, measured).statistic),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values; latencies in milliseconds."""
        rows = zip(self.vectors, self.predicted, self.measured, strict=True)
        return {
            **self.setting.model_dump(),
            "mean_absolute_percentage_error": 100 * self.error,
            **self.correlations,
            "vectors": [{"vector": list(v), "predicted": p, "measured": m} for v, p, m in rows],
        }


def check_latency(
    traced: Traced, setting: Setting, *, vectors: int = 8, seed: int = 0, reporter: Reporter | None = None
) -> LatencyCheck:
    """Measure the base and ``vectors`` different random vectors as whole networks, and compare with the predictions.

    Args:
        traced: A trace with the metric ``latency``.
        setting: The setting of that metric; its threads, batch and provider are used.
        vectors: How many random vectors, uniform over the legal ones within the space's budget; all others than the
            base if there are fewer. Each is exported, which takes seconds.
        seed: Seed of the draws.
        reporter: Gets the progress of the exports.

    Raises:
        UsageError: ``vectors`` is less than 2, or the space has no metric ``latency``.
        RunError: A network cannot be exported or run.
    """
    if vectors < 2:
        raise UsageError(
            f"--latency-check is {vectors}: it must be at least 2", where="--latency-check", kind="latency_check"
        )
    space, reporter = traced.space, reporter or Silent()
    if "latency" not in space.metrics:
        raise UsageError("the space has no latency: measure it with --latency", kind="latency_missing")
    here = Setting.here(setting.threads, setting.batch, setting.provider)
    rng, sampler = numpy_generator(seed, "latency check"), FeasibleSampler(space)
    chosen: dict[Vector, None] = {space.base: None}
    for _ in range(_DRAWS * vectors):
        chosen[sampler.draw(rng)] = None
        if len(chosen) > vectors:
            break
    net, calls = Supernet(traced), {}
    with tempfile.TemporaryDirectory() as folder:
        for index, vector in enumerate(reporter.track(list(chosen), len(chosen), "exporting")):
            calls[str(index)] = open_network(lower(net, vector), traced, here, Path(folder) / f"{index}.onnx")
        taken = time_calls(calls, cpu_time=in_calling_thread(here.threads, here.provider), rounds=ROUNDS)
    return LatencyCheck(
        here,
        tuple(chosen),
        tuple(space.cost(vector)["latency"] for vector in chosen),
        tuple(float(np.median(taken[name])) for name in calls),
    )
