"""Find the sites that declare their own candidates: the calls of modules with a method ``narfx_candidates``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.fx import GraphModule, Node

from narfx.errors import UsageError
from narfx.graph.declared import declares, fixed_parts
from narfx.graph.nodes import call_targets, source_line
from narfx.graph.tracer import forward_hooks
from narfx.operators.declared import declared_names, own_cost, slot_key
from narfx.passes.in_place import changes, origin
from narfx.space.records import DeclaredSite, Site, Skipped

__all__ = ["changes_in_place", "find_declared", "refuse_fixed", "within"]


def find_declared(
    graph_module: GraphModule, shapes: Mapping[Node, tuple[int, ...]]
) -> tuple[list[DeclaredSite], list[Skipped]]:
    """Find all calls of modules that declare candidates, in graph order.

    Args:
        graph_module: A trace in which every such module is a leaf.
        shapes: The output shape of each node, batch axis first.

    Returns:
        The sites, one for each call, and the modules that cannot be one, with the reason.

    Raises:
        UsageError: A declaration is wrong; the message names the site.
    """
    sites: list[DeclaredSite] = []
    skipped: list[Skipped] = []
    for target, calls in call_targets(graph_module).items():
        module = graph_module.get_submodule(target)
        if not declares(module):
            continue
        names, key = declared_names(module, target), slot_key(module, target)
        code, reason = _refusal(graph_module, target, module, calls, shapes, names)
        if code:
            skipped.append(Skipped(target, code, reason, source_line(calls[0])))
            continue
        for occurrence, node in enumerate(calls):
            inputs = [shapes[source] for source in _inputs(node)]
            site = DeclaredSite(
                target=target,
                occurrence=occurrence,
                kind=type(module).__name__,
                candidates=names,
                input_shapes=tuple(shape[1:] for shape in inputs),
                output_shape=shapes[node][1:],
                where=source_line(node),
                images=shapes[node][0],
                slot=key,
            )
            try:
                cost = own_cost(module, site)
            except Exception as error:
                raise UsageError(
                    f"{site.name} cannot be run alone on {len(inputs)} tensors of zeros: {error}",
                    where=site.name,
                    kind="candidate_failed",
                ) from error
            sites.append(replace(site, own_params=int(cost["params"]), own_macs=int(cost["macs"])))
    order = {node.target: index for index, node in reversed([*enumerate(graph_module.graph.nodes)])}
    return sorted(sites, key=lambda site: order[site.target]), skipped


def changes_in_place(graph_module: GraphModule, sites: Sequence[DeclaredSite]) -> str:
    """The node that changes an output of these sites, or later an input of theirs, in place; an empty text if none."""
    order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
    for site in sites:
        for node in call_targets(graph_module)[site.target]:
            for source in (node, *(origin(graph_module, given) for given in _inputs(node))):
                for change in changes(graph_module, source):
                    if order[change] > order[node]:
                        return change.name
    return ""


def within(skipped: Sequence[Skipped], sites: Sequence[DeclaredSite]) -> list[Skipped]:
    """What was skipped, without the convolutions inside of sites: those go with the choice at their site."""
    inside = tuple({f"{site.target}." for site in sites})
    return [entry for entry in skipped if not entry.name.startswith(inside)] if inside else [*skipped]


def refuse_fixed(sites: Sequence[Site], model: nn.Module) -> tuple[list[Site], list[Skipped]]:
    """The sites that are not in a part of the model that declares nothing, and the others as skipped."""
    fixed = {f"{path}." if path else "": path for path in fixed_parts(model)}
    around = {site.name: next((f for f in fixed if site.target.startswith(f)), None) for site in sites}
    return [site for site in sites if around[site.name] is None], [
        Skipped(site.name, "fixed", f"{fixed[home] or 'the model'} declares that nothing in it is refined", site.where)
        for site in sites
        if (home := around[site.name]) is not None
    ]


def _inputs(node: Node) -> list[Node]:
    found: list[Node] = []
    torch.fx.node.map_arg((node.args, node.kwargs), found.append)
    return found


def _refusal(
    graph_module: GraphModule,
    target: str,
    module: nn.Module,
    calls: Sequence[Node],
    shapes: Mapping[Node, tuple[int, ...]],
    names: Sequence[str],
) -> tuple[str, str]:
    """A reason code and a sentence, or two empty texts if the module is a site."""
    if len(names) < 2:
        return "no_candidate", f"it declares no candidate but itself ({names[0]})"
    if forward_hooks(module):
        return "hooks", "it has forward hooks, which a swap would lose"
    mine = {id(value) for value in (*module.parameters(), *module.buffers())}
    inside = {id(part) for part in module.modules()}
    for path, part in graph_module.named_modules():
        held = (*part._parameters.values(), *part._buffers.values())
        if id(part) not in inside and any(id(value) in mine for value in held if value is not None):
            return "shared_weight", f"its weights are also used by {path or 'the model'}, which a swap would not change"
    for node in calls:
        if node.kwargs or any(not isinstance(value, Node) for value in node.args):
            return "arguments", "it is called with more than tensors by position"
        if not _inputs(node) or any(source not in shapes for source in (node, *_inputs(node))):
            return "arguments", "it takes or returns more than single tensors"
        if not all(shapes[source][:1] == shapes[node][:1] for source in (node, *_inputs(node))) or not shapes[node]:
            return "arguments", "it changes the batch axis"
    return "", ""
