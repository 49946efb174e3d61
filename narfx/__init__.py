"""narfx: Neural Architecture Refinement (arXiv 1905.02341) as a compiler pass over ``torch.fx``.

A model that works goes in; its convolutions become dispatchable nodes, a search finds which of them may be cheaper
operators, and an ordinary network with a proven ONNX file comes out.

A name is imported on first use, so that ``narfx --help`` does not wait for torch.
"""

import importlib
import typing

from narfx import _startup  # noqa: F401 (first of all: it answers a missing narfx/passes, and Ctrl-C while torch loads)
from narfx._version import __version__

if typing.TYPE_CHECKING:
    from narfx import search
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

_HOMES = {
    "Architecture": "narfx.space.architecture",
    "NarfxError": "narfx.errors",
    "Operator": "narfx.operators",
    "SearchSpace": "narfx.space.space",
    "Supernet": "narfx.compiler.supernet",
    "Traced": "narfx.compiler.traced",
    "apply": "narfx.bundle.bundle",
    "check": "narfx.bundle.bundle",
    "export": "narfx.bundle.bundle",
    "lower": "narfx.compiler.lowering",
    "register_operator": "narfx.operators",
    "trace": "narfx.compiler.front_end",
}


if not typing.TYPE_CHECKING:  # a type checker reads the imports above, and refuses every other name

    def __getattr__(name):
        if name == "search":
            return importlib.import_module("narfx.search")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
