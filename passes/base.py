"""The base class of all rewrite passes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

__all__ = ["Pass"]


class Pass(ABC):
    """A rewrite: GraphModule in, ``PassResult(graph_module, modified)`` out.

    A subclass declares whether it works ``in_place`` and implements ``rewrite``. A call checks that declaration, then
    lints and recompiles once if anything was modified. An error keeps its type and gets the pass's name as a note. A
    pass that only swaps modules and changes no node sets ``swaps_only``: its code stays the same, so it is not compiled
    again (which takes as long as a trace for a large graph).
    """

    in_place: ClassVar[bool]
    swaps_only: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Return the rewritten GraphModule and whether anything changed."""

    def __call__(self, graph_module: GraphModule | PassResult) -> PassResult:
        """Run the pass on a GraphModule or on the result of another pass.

        Raises:
            TypeError: The pass did not keep its declaration ``in_place``.
        """
        given = graph_module.graph_module if isinstance(graph_module, PassResult) else graph_module
        name = type(self).__name__
        try:
            result, modified = self.rewrite(given)
        except Exception as error:
            error.add_note(f"in the pass {name}")
            raise
        if self.in_place and result is not given:
            raise TypeError(f"{name} is declared in place but returned another GraphModule")
        if not self.in_place and result is given and modified:
            raise TypeError(f"{name} is declared functional (not in place) but changed the given GraphModule")
        if modified:
            result.graph.lint()
            if not self.swaps_only:
                result.recompile()
        return PassResult(result, modified)
