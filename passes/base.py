"""What every rewrite pass has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassResult

__all__ = ["Pass"]


class Pass(ABC):
    """A rewrite: GraphModule in, ``PassResult(graph_module, modified)`` out.

    A subclass says whether it works ``in_place`` and implements ``rewrite``. Calling the pass checks that it kept its
    word, lints and recompiles once if anything was modified, and adds the pass's name to an error as a note, so that
    the error keeps its type. A pass that swaps modules and leaves every node as it is says so by ``swaps_only``: then
    the code is that of before, and need not be compiled again (for a large graph, as long as a trace takes).
    """

    in_place: ClassVar[bool]
    swaps_only: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Return the rewritten GraphModule and whether anything was changed."""

    def __call__(self, graph_module: GraphModule | PassResult) -> PassResult:
        """Run the pass on a GraphModule, or on what another pass returned."""
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
            raise TypeError(f"{name} is declared functional but changed the GraphModule that it was given")
        if modified:
            result.graph.lint()
            if not self.swaps_only:
                result.recompile()
        return PassResult(result, modified)
