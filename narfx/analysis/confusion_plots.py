"""The confusion of networks over the epochs, and the density of the cosines after the last one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from narfx.support.figures import render

__all__ = ["plot_confusion"]


def plot_confusion(result: Mapping[str, Any]) -> dict[str, bytes]:
    """A figure of what :func:`narfx.analysis.confusion.confuse` returns, by format."""
    return render(lambda figure: _draw(result, figure), 8.5, 3.4)


def _draw(result: Mapping[str, Any], figure: Any) -> None:
    import matplotlib as mpl

    left, right = figure.subplots(1, 2)
    networks, final = result["networks"], result["target"]
    for index, entry in enumerate([*networks, *([final] if final is not None else [])]):
        is_final = entry is final
        colour = "black" if is_final else mpl.colormaps["viridis"](0.9 * index / max(len(networks) - 1, 1))
        style = {"color": colour, "linewidth": 1.0, "linestyle": "--" if is_final else "-"}
        values = np.array(entry["confusion_by_epoch"])
        epochs = np.arange(1, values.shape[1] + 1)
        mark = " (chosen)" if entry["name"] == result["chosen"] else ""
        left.plot(epochs, values.mean(0), marker=".", label=f"{entry['name']}{mark}", **style)
        if len(values) > 1:
            error = values.std(0, ddof=1) / np.sqrt(len(values))
            left.fill_between(epochs, values.mean(0) - error, values.mean(0) + error, color=colour, alpha=0.15)
        right.stairs(entry["density"]["share"], entry["density"]["edges"], **style)
    left.set_xlabel("epoch", fontsize=8)
    left.set_ylabel("confusion (minus the smallest cosine)", fontsize=8)
    left.legend(fontsize=7, frameon=False)
    right.set_xlabel("cosine of two minibatches, last epoch", fontsize=8)
    right.set_ylabel("share of pairs", fontsize=8)
    for axis in (left, right):
        axis.tick_params(labelsize=8)
