"""Contours and surfaces over a plane, the networks side by side on one logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narfx.support.figures import render

__all__ = ["plot_contours", "plot_surfaces"]

_LEVELS = 16
_LABELS = {"loss": "loss", "variance": "gradient variance"}
Values = NDArray[np.float64]


def plot_contours(result: Mapping[str, Any]) -> dict[str, bytes]:
    """A figure of the result of :func:`narfx.analysis.planes.look_at_plane`, by format; a panel for each network."""
    return render(lambda figure: _contours(result, figure), 0.8 + 3.2 * len(result["networks"]), 3.4)


def plot_surfaces(result: Mapping[str, Any]) -> dict[str, bytes]:
    """The same as surfaces; what exceeds the scale is cut off."""
    return render(lambda figure: _surfaces(result, figure), 3.8 * len(result["networks"]), 3.6)


def _scale(result: Mapping[str, Any]) -> tuple[list[Values], Values]:
    """The values of each network with NaN where there are none, and the levels that all share.

    The scale goes up to the 95th percentile of all networks: at the edge of a plane a loss may be a million.
    """
    grids = [np.array(entry["values"], dtype=float) for entry in result["networks"]]
    known = np.concatenate([grid[np.isfinite(grid)] for grid in grids])
    positive = known[known > 0]
    if not len(positive):
        return grids, np.geomspace(1e-12, 1.0, _LEVELS)
    low, high = float(positive.min()), float(np.quantile(positive, 0.95))
    return grids, np.geomspace(low, max(high, low * 1.001), _LEVELS)


def _contours(result: Mapping[str, Any], figure: Any) -> None:
    from matplotlib.colors import LogNorm

    grids, levels = _scale(result)
    axis = np.array(result["axis"])
    panels = figure.subplots(1, len(grids), squeeze=False, sharey=True)[0]
    norm, shown = LogNorm(levels[0], levels[-1]), None
    for panel, entry, grid in zip(panels, result["networks"], grids, strict=True):
        held = np.ma.masked_invalid(np.clip(grid, levels[0], levels[-1]))
        shown = panel.contourf(axis, axis, held, levels, norm=norm, cmap="viridis")
        panel.contour(axis, axis, held, levels, colors="white", linewidths=0.3)
        panel.plot(0, 0, "x", color="tab:red", markersize=5)
        panel.set_title(f"{entry['name']}: {entry['centre']:.3g} at x", fontsize=8)
        panel.set_xlabel("first direction", fontsize=8)
        panel.set_xticks(_ticks(axis))
        panel.tick_params(labelsize=7)
    panels[0].set_ylabel("second direction", fontsize=8)
    bar = figure.colorbar(shown, ax=list(panels), format="%.2g")
    bar.set_label(_LABELS[result["measure"]], fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _surfaces(result: Mapping[str, Any], figure: Any) -> None:
    grids, levels = _scale(result)
    axis = np.array(result["axis"])
    xs, ys = np.meshgrid(axis, axis)
    low, high = np.log10(levels[0]), np.log10(levels[-1])
    for index, (entry, grid) in enumerate(zip(result["networks"], grids, strict=True)):
        panel = figure.add_subplot(1, len(grids), index + 1, projection="3d")
        heights = np.log10(np.clip(grid, levels[0], levels[-1]))
        panel.plot_surface(xs, ys, heights, cmap="viridis", vmin=low, vmax=high, linewidth=0)
        panel.set_zlim(low, high)
        panel.set_title(entry["name"], fontsize=8)
        panel.set_xticks(_ticks(axis))
        panel.set_yticks(_ticks(axis))
        panel.tick_params(labelsize=6)
    figure.suptitle(f"log10 of the {_LABELS[result['measure']]}", fontsize=8)


def _ticks(axis: Values) -> Values:
    return np.linspace(axis[0], axis[-1], 5)
