"""narfx: Neural Architecture Refinement (arXiv 1905.02341) as a compiler pass over ``torch.fx``.

A model that works goes in; its convolutions become dispatchable nodes, a search finds which of them may be cheaper
operators, and an ordinary network with a proven ONNX file comes out.
"""

from narfx import (
    _startup,  # noqa: F401 (first of all: it answers a missing narfx/passes, and Ctrl-C while torch is imported)
    search,
)
from narfx._version import __version__
from narfx.bundle.bundle import apply, check, export
from narfx.compiler.front_end import trace
from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import NarfxError
from narfx.operators import Operator, register_operator
from narfx.space.architecture import Architecture
from narfx.space.space import SearchSpace

__all__ = [
    "Architecture",
    "NarfxError",
    "Operator",
    "SearchSpace",
    "Supernet",
    "Traced",
    "__version__",
    "apply",
    "check",
    "export",
    "lower",
    "register_operator",
    "search",
    "trace",
]
