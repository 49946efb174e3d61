"""Lower a supernet's graph to a vector: each dispatch node becomes one operator, each gate the skips that are open."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import ClassVar

from torch import nn
from torch.fx import GraphModule

from narfx.graph.copying import copy_module
from narfx.operators.dispatch import Dispatch, Shortcut, SkipGate
from narfx.passes.base import Pass
from narfx.passes.drop_zeros import drop_zeros
from narfx.passes.inline import inline
from narfx.passes.lift_dropout import LIFTED_DROPOUT
from narfx.passes.lift_functional import RestoreFunctional, lifted_calls
from narfx.passes.lower_skips import closed, lower_skips
from narfx.space.records import DeclaredSite
from narfx.space.space import SearchSpace

__all__ = ["Lower"]


class Lower(Pass):
    """Functional. The operator is put at the site's own target, so untouched sites keep their state-dict keys.

    What the graph has selected, a vector or a mixture, is neither read nor changed.

    Args:
        space: The space that the graph's dispatch nodes and gates were made for.
        vector: One legal entry a slot of that space; ``UsageError`` for any other.
    """

    in_place: ClassVar[bool] = False
    swaps_only: ClassVar[bool] = True

    def __init__(self, space: SearchSpace, vector: Sequence[int | str]) -> None:
        self.vector = space.validate(vector)
        self.names = [slot.choices[entry] for slot, entry in zip(space.slots, self.vector, strict=True)]
        self.declared = [site.target for site in space.sites if isinstance(site, DeclaredSite)]
        self.opened = frozenset(space.split(self.vector)[1] or ())

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Copy the graph without the candidates that were not chosen, and without a trace of narfx."""
        dispatches = [module for module in graph_module.modules() if isinstance(module, Dispatch)]
        gates = [module for module in graph_module.modules() if isinstance(module, (Shortcut, SkipGate))]
        if not dispatches and not gates:
            return graph_module, False
        lifted = lifted_calls(graph_module)
        dispatches_at = {
            path for path, module in graph_module.named_modules(remove_duplicate=False) if isinstance(module, Dispatch)
        }
        # A copy takes what its memo holds for the copy: so the chosen modules are copied into the places of their
        # dispatch nodes, and the other candidates are never copied at all.
        memo: dict[int, object] = {
            id(part): nn.Identity()
            for gate in gates
            if isinstance(gate, SkipGate)
            for part in closed(gate, self.opened)
        }
        for dispatch in dispatches:
            memo[id(dispatch)] = copy_module(dispatch.candidates[self.names[dispatch.slot]], memo)
        lowered: GraphModule = copy_module(graph_module, memo)
        for node in lowered.graph.nodes:
            node.meta.pop("narfx_slot", None)
        for module in lowered.modules():
            module.__dict__.pop(LIFTED_DROPOUT, None)
        if gates:
            lower_skips(lowered, self.opened)
        changed = [_by_position(lowered, dispatches_at), drop_zeros(lowered), inline(lowered, self.declared)]
        if any(changed) or gates:
            lowered.recompile()  # here nodes change too
        RestoreFunctional(lifted)(lowered)
        return lowered, True


def _by_position(graph_module: GraphModule, targets: Collection[str]) -> bool:
    """Give the input by position where a call names it and the operator there does not; whether there is any."""
    changed = False
    for node in graph_module.graph.nodes:
        if node.op == "call_module" and node.target in targets and "input" in node.kwargs:
            named = inspect.signature(graph_module.get_submodule(str(node.target)).forward).parameters.get("input")
            if named is None or named.kind is named.POSITIONAL_ONLY:
                node.args, node.kwargs = (node.kwargs["input"],), {}
                changed = True
    return changed
