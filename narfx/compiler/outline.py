"""The outline of a traced network for people: its sites, its other layers, and the places where values meet.

Activations, normalisation, reshaping and the like are left out: a node takes the outputs of the nearest nodes of the
outline before it.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx, nn

from narfx.compiler.traced import Traced
from narfx.passes.lift_functional import FunctionalConv, read_functional
from narfx.space.network_record import NetworkRecord, NodeKind, NodeRecord, slot_records

__all__ = ["network_record", "outline"]

_SIZES = {"size", "dim", "numel", "getattr"}
_TORCH = ("torch.nn.", "torch.ao.nn.")


def network_record(
    traced: Traced, name: str = "", vector: tuple[int, ...] | None = None, *, model: str | None = None
) -> NetworkRecord:
    """The record of a trace; ``model`` is how a report names the base, without folders."""
    space = traced.space
    return NetworkRecord(
        name=name,
        model=model or traced.model or type(traced.graph_module).__name__,
        input=traced.input,
        slots=slot_records(space),
        fixed={metric: float(cost) for metric, cost in space.fixed.items()},
        nodes=tuple(outline(traced.graph_module, {site.name for site in space.sites})),
        path=() if traced.skips is None else traced.skips.nodes,
        vector=vector,
    )


def outline(graph_module: fx.GraphModule, sites: Collection[str] = ()) -> list[NodeRecord]:
    """The nodes of the outline in graph order.

    Args:
        graph_module: A trace.
        sites: The names of its sites.
    """
    functional, used = read_functional(graph_module), _used(graph_module)
    found: list[NodeRecord] = []
    kind: NodeKind | None
    sources: dict[fx.Node, tuple[int, ...]] = {}
    calls: dict[str, int] = {}
    for node in graph_module.graph.nodes:
        known = [index for before in node.all_input_nodes for index in sources.get(before, ())]
        inputs = tuple(dict.fromkeys(known))
        lifted = functional.get(node)
        target = lifted.target if isinstance(lifted, FunctionalConv) else str(node.target)
        name = _call_name(target, calls) if node.op == "call_module" or lifted is not None else node.name
        if node not in used or node.op == "get_attr" or _name_of(node) in _SIZES:
            sources[node] = ()
            continue
        module = graph_module.get_submodule(target) if node.op == "call_module" else None
        kind, label = ("site", "") if name in sites else _kind(node, module, len(inputs))
        if kind is None:
            sources[node] = inputs
            continue
        sources[node] = (len(found),)
        found.append(NodeRecord(name=name, kind=kind, label=label, inputs=inputs))
    return found


def _call_name(target: str, calls: dict[str, int]) -> str:
    calls[target] = calls.get(target, -1) + 1
    return target if calls[target] == 0 else f"{target}@{calls[target]}"


def _used(graph_module: fx.GraphModule) -> set[fx.Node]:
    """The nodes on which the output depends."""
    waiting = [node for node in graph_module.graph.nodes if node.op == "output"]
    used = set(waiting)
    while waiting:
        new = set(waiting.pop().all_input_nodes) - used
        used |= new
        waiting += new
    return used


def _name_of(node: fx.Node) -> str:
    """The name of the function or method that a node calls."""
    return str(node.target) if node.op == "call_method" else str(getattr(node.target, "__name__", ""))


def _kind(node: fx.Node, module: nn.Module | None, inputs: int) -> tuple[NodeKind | None, str]:
    """The kind and the label of a node that is no site; without a kind it is left out."""
    if node.op == "placeholder":
        return "input", str(node.target)
    if node.op == "output":
        return "output", "output"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "layer", f"conv{'x'.join(map(str, module.kernel_size))}"
    if isinstance(module, nn.Linear):
        return "layer", "linear"
    called = type(module).__name__ if module is not None else _name_of(node)
    if "pool" in called.lower():
        return "pool", called
    if module is not None and not type(module).__module__.startswith(_TORCH):
        return "layer", called
    return ("join", called) if inputs > 1 else (None, "")
