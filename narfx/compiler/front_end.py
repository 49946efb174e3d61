"""The passes in their order: trace, search space, supernet, lowered network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from narfx.compiler.modes import settle_training
from narfx.compiler.slots import (  # fmt: skip
    by_first_call,
    declared_slot,
    fixed_cost,
    group_declared,
    group_sites,
    operator_slot,
    skip_slot,
    unused_operators,
)
from narfx.compiler.traced import Traced
from narfx.errors import NothingToRefineError, UsageError
from narfx.graph.batch import check_batch
from narfx.graph.cost import GraphCost, shapes_and_cost
from narfx.graph.order import keep_order
from narfx.graph.time_limit import model_time
from narfx.graph.tracing import GraphTrace, trace_graph
from narfx.graph.unused import keep_unused
from narfx.inputs.arguments import check_input, check_model, listed
from narfx.inputs.image_size import input_of_module
from narfx.operators import get_operator, load_operators
from narfx.passes.declared import find_declared, refuse_fixed, within
from narfx.passes.sites import find_sites, frozen_sites
from narfx.passes.skips import SkipDomain, find_skips
from narfx.space.architecture import DEFAULT_OPERATORS, SpaceOptions
from narfx.space.records import Site, Skipped
from narfx.space.space import SearchSpace
from narfx.support.collector import collector_paused
from narfx.support.schema import validated
from narfx.support.text import count

__all__ = ["Traced", "trace"]


@model_time()
@collector_paused()
def trace(
    model: nn.Module,
    input: tuple[int, int, int] | None = None,
    granularity: str = "conv",
    *,
    operators: Sequence[str] = DEFAULT_OPERATORS,
    operator_files: Sequence[str] = (),
    kernels: Sequence[int] = (3,),
    max_candidate_params: float = 1.0,
    include_first: bool = False,
    search_skips: bool = False,
    skips_from_input: bool = True,
    reference: str | None = None,
) -> Traced:
    """Trace ``model`` and find the sites that may be refined. The model is copied, never changed.

    A part that carries forward hooks stays whole, with its reason among those of what is skipped: so its hooks run
    whenever a network made of it runs (as a copy does here, on tensors without values, to learn its shapes), and none
    is ever given what stands in for tensors during a trace.

    Args:
        model: Any module that maps one tensor (N, C, H, W) to its outputs.
        input: One sample's shape: channels, height, width; default: what the module itself states, as timm's do.
        granularity: ``"conv"`` for one slot a convolution, ``"block"`` for one slot a residual block.
        operators: The list that a vector's entries index; the first is ``base``.
        operator_files: Python files of the user's that register operators of that list; they are run.
        kernels: The square kernel sizes that make a site: 3, 5 and 7.
        max_candidate_params: An operator with more parameters than this times the site's own call is not offered.
        include_first: Whether the network's first convolution may be refined (and is a node of the main path).
        search_skips: Whether skips between the nodes of the main path may be opened and closed too.
        skips_from_input: Whether a skip may start at node 0, which is what feeds node 1.
        reference: How the model is named in an ``arch.json``.

    Raises:
        UsageError: The model is no module, cannot be traced, does not accept the input, has integer weights where a
            site would be, or an option is wrong.
        NothingToRefineError: The trace has no site with a choice; the message gives the first few reasons.
    """
    check_model(model)
    input = input_of_module(model) if input is None else input
    if input is None:
        raise UsageError(
            f"the size of the images is not known, because {type(model).__name__} does not state it: give "
            "input=(channels, height, width)",
            where="--input",
            kind="input_shape",
        )
    check_input(input)
    options = validated(
        SpaceOptions,
        {
            "granularity": granularity,
            "operators": listed(operators, "operators"),
            "operator_files": tuple(map(str, listed(operator_files, "operator_files"))),
            "kernels": listed(kernels, "kernels"),
            "max_candidate_params": max_candidate_params,
            "include_first": include_first,
            "search_skips": search_skips,
            "skips_from_input": skips_from_input,
        },
        "trace",
        kind="bad_option",
    )
    operators = options.operators
    for file in options.operator_files:
        load_operators(file)
    for name in options.operators[1:]:
        get_operator(name)
    traced = trace_graph(model)
    settle_training(traced)
    cost = shapes_and_cost(traced.graph_module, input)
    lost = check_batch(traced.graph_module, cost, input)
    traced.notes += [lost] if lost else []
    found, skipped = find_sites(traced.graph_module, cost.shapes, kernels=options.kernels, include_first=include_first)
    found, fixed = refuse_fixed(found, traced.source)
    declared, undeclared = find_declared(traced.graph_module, cost.shapes)
    skipped = [*traced.opaque, *within([*skipped, *fixed], declared), *undeclared]
    slots = []
    for name, sites in group_sites(traced.graph_module, found, granularity, traced.notes) if found else []:
        slot = operator_slot(name, sites, operators, options.max_candidate_params)
        if len(slot.legal) > 1:
            slots.append(slot)
            continue
        reasons = (
            "; ".join(f"{slot.choices[k]}: {why}" for k, why in slot.refused.items()) or "there is no other operator"
        )
        skipped += [
            Skipped(site.name, "no_candidate", f"no operator may stand here ({reasons})", site.where) for site in sites
        ]
    if slots:
        traced.notes += unused_operators(operators, slots)
        _note_frozen(traced, [site for slot in slots for site in slot.sites if isinstance(site, Site)])
    slots += [declared_slot(name, sites, traced.graph_module) for name, sites in group_declared(declared)]
    if declared:
        slots = by_first_call(slots, traced.graph_module)
    skips = None
    if search_skips:
        skips = _find_skips(model, traced.graph_module, cost, options)
        slots += [skip_slot(candidate) for candidate in skips.candidates]
        skipped += skips.fixed
    integers = [entry for entry in skipped if entry.code == "dtype"]
    if not slots and integers:
        raise UsageError(
            f"{type(model).__name__} has no convolution of floating-point weights to refine: {integers[0].name}: "
            f"{integers[0].reason}; give the float model",
            where=integers[0].name,
            kind="weights_not_float",
        )
    if not slots:
        shown = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:4]) or "it contains no convolution"
        raise NothingToRefineError(
            f"nothing to refine in {type(model).__name__}: {shown}" + ("; ..." if len(skipped) > 4 else ""),
            where=reference,
            details={"skipped": [{"name": s.name, "code": s.code} for s in skipped]},
        )
    impossible = {} if skips is None else skips.impossible
    space = SearchSpace(operators, tuple(slots), fixed_cost(cost, slots), impossible=impossible)
    dropped = _keep_unused(traced)
    traced.graph_module.meta["input_shape"] = input  # copies keep it, so that a lowered network can be exported alone
    return Traced(
        graph_module=traced.graph_module,
        space=space,
        skipped=tuple(skipped),
        notes=tuple(traced.notes),
        dropped=dropped,
        input=input,
        options=options,
        cost={"params": cost.params, "macs": cost.macs},
        model=reference,
        skips=skips,
    )


def _note_frozen(trace: GraphTrace, sites: Sequence[Site]) -> None:
    """A filter that training never touches, such as a Sobel layer, may be meant to stay."""
    names = frozen_sites(trace.graph_module, sites)
    if names:
        shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        trace.notes.append(
            f"{count(len(names), 'site')} with frozen weights (requires_grad=False): {shown}; at base the weights stay "
            "as they are, and an operator in their place is trained"
        )


def _keep_unused(trace: GraphTrace) -> tuple[str, ...]:
    """Last of all, because what no node calls is no part of what is refined; the keys, which a note names too.

    From then on the graph module holds all that the model does, and holds it in the model's order.
    """
    keys = sorted(keep_unused(trace.graph_module, trace.source))
    keep_order(trace.graph_module, trace.source)
    if keys:
        shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
        trace.notes.append(
            f"{count(len(keys), 'key')} of the model {'is' if len(keys) == 1 else 'are'} not used by the traced graph: "
            f"{shown}; {'it stays' if len(keys) == 1 else 'they stay'} in the state dict"
        )
    return tuple(keys)


def _find_skips(
    model: nn.Module, graph_module: fx.GraphModule, cost: GraphCost, options: SpaceOptions
) -> SkipDomain:  # fmt: skip
    try:
        skips = find_skips(
            graph_module, cost.shapes, include_first=options.include_first, from_input=options.skips_from_input
        )
    except UsageError as error:
        raise UsageError(f"{type(model).__name__}: {error}", where=error.where, kind=error.kind) from error
    if not skips.candidates:
        why = next(iter(skips.impossible.values()), "a skip passes over at least one node")
        raise UsageError(
            f"{type(model).__name__} has no possible skip: its main path has {count(len(skips.nodes) - 1, 'node')}; "
            f"{why}",
            where="--search-skips",
            kind="no_skips",
        )
    return skips
