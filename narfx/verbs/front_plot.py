"""The plot of a front: accuracy against each of its costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narfx.space.metrics import metric
from narfx.support.figures import render

__all__ = ["plot_front"]


def plot_front(result: Mapping[str, Any]) -> dict[str, bytes]:
    """A figure of what :func:`narfx.verbs.front.describe_front` returns, by format; one panel for each cost."""
    return render(lambda figure: _draw(result, figure), 5.0 * len(result["costs"]), 3.4)


def _draw(result: Mapping[str, Any], figure: Any) -> None:
    panels = figure.subplots(1, len(result["costs"]), squeeze=False, sharey=True)[0]
    for axis, cost in zip(panels, result["costs"], strict=True):
        _panel(result, cost, axis)
    panels[0].set_ylabel(result["metric"].replace("_", " "), fontsize=8)
    panels[0].legend(fontsize=8, frameon=False)


def _panel(result: Mapping[str, Any], cost: str, axis: Any) -> None:
    base, points = result["base"], sorted(result["points"], key=lambda point: point[cost])
    scale = base[cost] or 1.0
    shares = [point[cost] / scale for point in points]
    heights = [point["accuracy"] for point in points]
    # Between two points the cheaper one is the best that is known; over several costs points are not in one line.
    if len(result["costs"]) == 1:
        axis.step(shares, heights, where="post", linewidth=0.8, color="tab:blue")
    errors = [point["standard_error"] or 0.0 for point in points]
    axis.errorbar(shares, heights, errors, fmt="o", markersize=4, linewidth=0.8, color="tab:blue", label="front")
    for point, share in zip(points, shares, strict=True):
        axis.annotate(
            str(point["point"]),
            (share, point["accuracy"]),
            textcoords="offset points",
            xytext=(4, 3 if point["point"] % 2 else -9),  # two neighbours, one above and one below
            fontsize=7,
        )
    if base["accuracy"] is not None:
        error = base["standard_error"] or 0.0
        axis.errorbar([1.0], [base["accuracy"]], [error], fmt="k*", markersize=8, linewidth=0.8, label="base")
    if result["picked"] is not None:
        _ring(axis, result["picked"], cost, scale, "picked")
    elif result["knee"] is not None:
        _ring(axis, result["points"][result["knee"] - 1], cost, scale, "knee")
    axis.set_xlabel(f"{metric(cost).words}, share of the base's", fontsize=8)
    axis.tick_params(labelsize=8)


def _ring(axis: Any, point: Mapping[str, Any], cost: str, scale: float, label: str) -> None:
    place = ([point[cost] / scale], [point["accuracy"]])
    axis.plot(*place, "o", markersize=10, markerfacecolor="none", color="tab:orange", label=label)
