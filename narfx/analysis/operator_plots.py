"""The likeness of operators as a heat map, beside the dendrogram by which they are grouped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narfx.support.figures import render

__all__ = ["draw_operators"]


def draw_operators(
    names: Sequence[str],
    matrix: Sequence[Sequence[float | None]],
    tree: Sequence[Sequence[float]],
    cut: float | None,
    measure: str,
) -> dict[str, bytes]:
    """Both by format.

    Args:
        names: The operators.
        matrix: How alike any two are; ``None`` where they never stand at one site.
        tree: scipy's linkage of them, at distances of 1 less that.
        cut: The distance at which groups end, a line in the dendrogram.
        measure: What the numbers are called.
    """
    side = 1.6 + 0.42 * len(names)
    return render(lambda figure: _draw(names, matrix, tree, cut, measure, figure), 2 * side + 0.8, side)


def _draw(
    names: Sequence[str],
    matrix: Sequence[Sequence[float | None]],
    tree: Sequence[Sequence[float]],
    cut: float | None,
    measure: str,
    figure: Any,
) -> None:
    import numpy as np
    from scipy.cluster.hierarchy import dendrogram

    left, right = figure.subplots(1, 2)
    drawn = dendrogram(np.array(tree), ax=right, labels=list(names), orientation="left", color_threshold=cut or 0)
    if cut is not None:
        right.axvline(cut, color="0.5", linewidth=0.8, linestyle="--")
    right.set_xlabel(f"1 - {measure}", fontsize=8)
    right.tick_params(labelsize=8)
    order = drawn["leaves"][::-1]
    values = np.array([[np.nan if v is None else v for v in row] for row in matrix], dtype=float)[np.ix_(order, order)]
    image = left.imshow(values, vmin=-1, vmax=1, cmap="RdBu_r")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            if np.isfinite(value):
                light = abs(value) > 0.6
                left.text(
                    j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color="white" if light else "black"
                )
    shown = [names[k] for k in order]
    left.set_xticks(range(len(shown)), shown, rotation=90, fontsize=8)
    left.set_yticks(range(len(shown)), shown, fontsize=8)
    bar = figure.colorbar(image, ax=left, shrink=0.8)
    bar.set_label(measure, fontsize=8)
    bar.ax.tick_params(labelsize=8)
