"""Analyses: what a finished run has recorded, and the shape of cells; records out, and figures where asked for.

``cells`` and ``operators`` are imported on first use, because they need torch.
"""

import importlib
import typing

from narfx.analysis.gradient_curves import gradients
from narfx.analysis.reward_curves import rewards
from narfx.analysis.volume_curves import hypervolumes

if typing.TYPE_CHECKING:
    from narfx.analysis.cell_shapes import cells
    from narfx.analysis.operator_groups import operators

__all__ = ["cells", "gradients", "hypervolumes", "operators", "rewards"]

_LATER = {"cells": "cell_shapes", "operators": "operator_groups"}


if not typing.TYPE_CHECKING:  # a type checker reads the import above, and refuses every other name

    def __getattr__(name):
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"narfx.analysis.{_LATER[name]}"), name)
