"""Figures as PNG and SVG; the same numbers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

__all__ = ["FORMATS", "render"]

FORMATS: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
"""The formats of a figure, each with the metadata that it leaves out."""


def render(draw: Callable[[Any], None], width: float, height: float) -> dict[str, bytes]:
    """What ``draw`` puts on a matplotlib figure of this size in inches, by format."""
    import matplotlib as mpl
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The user's own style would change the figure, and a random salt the names inside the SVG.
    with style.context("default"), mpl.rc_context({"svg.hashsalt": "narfx"}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        drawn = {}
        for kind, metadata in FORMATS.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, metadata=metadata, dpi=150)
            drawn[kind] = buffer.getvalue()
    return drawn
