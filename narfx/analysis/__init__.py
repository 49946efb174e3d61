"""Analyses: what a finished run has recorded, and the shape of cells; records out, and figures where asked for.

``cells`` is imported on first use, because it alone needs torch.
"""

import importlib
import typing

from narfx.analysis.gradient_curves import gradients
from narfx.analysis.reward_curves import rewards
from narfx.analysis.volume_curves import hypervolumes

if typing.TYPE_CHECKING:
    from narfx.analysis.cell_shapes import cells

__all__ = ["cells", "gradients", "hypervolumes", "rewards"]


if not typing.TYPE_CHECKING:  # a type checker reads the import above, and refuses every other name

    def __getattr__(name):
        if name != "cells":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module("narfx.analysis.cell_shapes").cells
