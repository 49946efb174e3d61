"""Analyses: what a finished run has recorded, and the shape of cells; records out, and figures where asked for."""

from narfx.analysis.cell_shapes import cells
from narfx.analysis.gradient_curves import gradients
from narfx.analysis.reward_curves import rewards

__all__ = ["cells", "gradients", "rewards"]
