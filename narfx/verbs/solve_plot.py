"""The plot of a front: predicted and evaluated accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narfx.support.figures import render

__all__ = ["plot_points"]

_NAMES = {"macs": "MACs", "params": "parameters"}


def plot_points(result: Mapping[str, Any]) -> dict[str, bytes]:
    """A figure of the points of :func:`narfx.verbs.solve.solve`, by format."""
    return render(lambda figure: _draw(result, figure), 5.0, 3.4)


def _draw(result: Mapping[str, Any], figure: Any) -> None:
    axis = figure.subplots()
    points, base = result["points"], result["base"]
    metric = result["bounded"]
    share = [point[metric] / base[metric] for point in points]
    axis.plot(share, [point["accuracy"] for point in points], "o-", markersize=4, label="evaluated")
    predicted = [point["predicted_accuracy"] for point in points]
    if None not in predicted:
        axis.plot(share, predicted, "x--", markersize=4, linewidth=0.8, label="predicted")
    axis.set_xlabel(f"{_NAMES.get(metric, metric)}, share of the base's", fontsize=8)
    axis.set_ylabel(result["metric"].replace("_", " "), fontsize=8)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
