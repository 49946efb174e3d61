"""How a stage of a search prepares the supernet before its strategy begins."""

from narfx.search.preparation.distil import Distil
from narfx.search.preparation.preparation import Preparation
from narfx.search.preparation.warm_up import NO_PREPARATION, WarmUp

__all__ = ["NO_PREPARATION", "Distil", "Preparation", "WarmUp"]
