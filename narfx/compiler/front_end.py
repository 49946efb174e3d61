"""The passes in their order: trace, search space, supernet, lowered network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx, nn

from narfx.architecture import DEFAULT_OPERATORS, SpaceOptions
from narfx.arguments import check_input, check_model, listed
from narfx.collector import collector_paused
from narfx.config import validated
from narfx.cost import GraphCost, shapes_and_cost
from narfx.errors import NothingToRefineError, UsageError
from narfx.operators import get_operator, load_operators, operator_cost, refusal
from narfx.passes.find_blocks import find_blocks
from narfx.passes.find_sites import find_sites
from narfx.passes.find_skips import SkipCandidate, SkipDomain, find_skips
from narfx.passes.lift_functional import FunctionalConv, read_functional
from narfx.passes.lower import Lower
from narfx.space import SearchSpace, Site, Skipped, Slot
from narfx.supernet import Supernet
from narfx.traced import Traced
from narfx.tracing import GraphTrace, settle_training, trace_graph
from narfx.unused import keep_unused
from narfx.words import article, count

__all__ = ["Traced", "lower", "trace"]


@collector_paused()
def trace(
    model: nn.Module,
    input: tuple[int, int, int] = (3, 224, 224),
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
    """Trace ``model`` and find what may be refined. The model is copied, never changed.

    A part that carries forward hooks stays whole, with its reason among those of what is skipped: so its hooks run
    whenever a network made of it runs (as a copy does here, on tensors without values, to learn its shapes), and none
    is ever given what stands in for tensors during a trace.

    Args:
        model: Any module that maps one tensor (N, C, H, W) to its outputs.
        input: One sample's shape: channels, height, width.
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
        NothingToRefineError: The trace holds no site with a choice; the message says why for the first few.
    """
    check_model(model)
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
    found, skipped = find_sites(traced.graph_module, cost.shapes, kernels=options.kernels, include_first=include_first)
    skipped = [*traced.opaque, *skipped]
    groups = _group(traced.graph_module, found, granularity, traced.notes)
    slots = []
    for name, sites in groups:
        slot = _slot(name, sites, operators, options.max_candidate_params)
        if len(slot.legal) > 1:
            slots.append(slot)
            continue
        reasons = "; ".join(f"{operators[k]}: {why}" for k, why in slot.refused.items()) or "there is no other operator"
        skipped += [
            Skipped(site.name, "no_candidate", f"no operator may stand here ({reasons})", site.where) for site in sites
        ]
    if slots:
        traced.notes += _unused(operators, slots)
    skips = None
    if search_skips:
        skips = _find_skips(model, traced.graph_module, cost, options)
        slots += [_skip_slot(candidate) for candidate in skips.candidates]
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
        shown = "; ".join(f"{s.name}: {s.reason}" for s in skipped[:4]) or "it holds no convolution"
        raise NothingToRefineError(
            f"nothing to refine in {type(model).__name__}: {shown}" + ("; ..." if len(skipped) > 4 else ""),
            where=reference,
            details={"skipped": [{"name": s.name, "code": s.code} for s in skipped]},
        )
    impossible = {} if skips is None else skips.impossible
    space = SearchSpace(operators, tuple(slots), _fixed(cost, slots), impossible=impossible)
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


@collector_paused()
def lower(net: Supernet, vector: Sequence[int]) -> fx.GraphModule:
    """The network that ``vector`` describes, as an ordinary GraphModule with the supernet's present weights.

    It holds no class of narfx, keeps the state-dict keys of what is untouched, and shares no storage with ``net``,
    whose own vector stays as it is.

    Raises:
        UsageError: The vector is not legal, or ``net`` is no supernet.
    """
    if not isinstance(net, Supernet):
        raise UsageError(
            f"lower takes a narfx.Supernet, not {article(net)}: narfx.Supernet(narfx.trace(model, ...)) makes one",
            where="net",
            kind="not_a_supernet",
        )
    before = net.vector
    net.set_vector(vector)
    try:
        lowered: fx.GraphModule = Lower()(net.graph_module).graph_module
        return lowered
    finally:
        net.set_vector(before)


def _group(
    graph_module: fx.GraphModule, sites: Sequence[Site], granularity: str, notes: list[str]
) -> list[tuple[str, list[Site]]]:
    """Sites that share one choice, in graph order: the calls of one module, or all calls in one residual block."""
    by_target: dict[str, list[Site]] = {}
    for site in sites:
        by_target.setdefault(site.target, []).append(site)
    if granularity == "conv":
        return list(by_target.items())
    block_of: dict[fx.Node, int] = {}
    blocks = find_blocks(graph_module)
    for index, block in enumerate(blocks):
        for node in block.nodes:
            block_of.setdefault(node, index)
    if not blocks:
        notes.append("no residual add was found, so every site is a slot of its own")
    functional = read_functional(graph_module)
    homes: dict[str, set[int | None]] = {target: set() for target in by_target}
    for node in graph_module.graph.nodes:
        call = functional.get(node)
        target = call.target if isinstance(call, FunctionalConv) else str(node.target)
        if target in homes and (node.op == "call_module" or call is not None):
            homes[target].add(block_of.get(node))
    groups: dict[int | str, list[Site]] = {}
    for target, members in by_target.items():
        home = next(iter(homes[target])) if len(homes[target]) == 1 else None
        groups.setdefault(target if home is None else home, []).extend(members)
    return [(_common_name(members), members) for members in groups.values()]


def _common_name(sites: Sequence[Site]) -> str:
    """The deepest module path that all sites share, else the first site's own."""
    first, *others = [site.target.split(".") for site in sites]
    depth = 0
    while depth < len(first) and all(other[depth : depth + 1] == first[depth : depth + 1] for other in others):
        depth += 1
    return ".".join(first[:depth]) or sites[0].target


def _slot(name: str, sites: Sequence[Site], operators: Sequence[str], max_candidate_params: float) -> Slot:
    """A slot offers what all its sites allow; a module called several times has its parameters once."""
    refused: dict[int, str] = {}
    costs: dict[str, list[float]] = {"params": [], "macs": []}
    for index, operator in enumerate(operators):
        total = {"params": 0.0, "macs": 0.0}
        for site in sites:
            base, reason = operator_cost(site, "base"), refusal(site, operator)
            own = operator_cost(site, operator) if reason is None else base
            if reason is None and own["params"] > max_candidate_params * base["params"]:
                reason = (
                    f"it has {own['params']:,.0f} parameters, more than {max_candidate_params:g} times the "
                    f"site's own {base['params']:,.0f}"
                )
            if reason is not None:
                refused.setdefault(index, reason if len(sites) == 1 else f"{site.name}: {reason}")
            total["params"] += own["params"] if site.occurrence == 0 else 0
            total["macs"] += own["macs"]
        for metric, value in total.items():
            costs[metric].append(int(value))
    legal = tuple(index for index in range(len(operators)) if index not in refused)
    return Slot(name, tuple(sites), legal, refused, {metric: tuple(values) for metric, values in costs.items()})


def _keep_unused(trace: GraphTrace) -> tuple[str, ...]:
    """Last of all, because what no node calls is no part of what is refined; the keys, which a note names too."""
    keys = sorted(keep_unused(trace.graph_module, trace.source))
    if keys:
        shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
        trace.notes.append(
            f"{count(len(keys), 'key')} of the model {'is' if len(keys) == 1 else 'are'} not used by the traced graph: "
            f"{shown}; {'it stays' if len(keys) == 1 else 'they stay'} in the state dict"
        )
    return tuple(keys)


def _unused(operators: Sequence[str], slots: Sequence[Slot]) -> list[str]:
    """A sentence for each operator of the list that no slot offers."""
    offered = {k for slot in slots for k in slot.legal}
    left = [k for k in range(len(operators)) if k not in offered]
    return [f"{operators[k]} may stand nowhere, as at {slots[0].name}: {slots[0].refused[k]}" for k in left]


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
            f"{type(model).__name__} has no possible skip: its main path has {len(skips.nodes) - 1} nodes; {why}",
            where="--search-skips",
            kind="no_skips",
        )
    return skips


def _skip_slot(candidate: SkipCandidate) -> Slot:
    """Two choices: as the base has it, and the other way round; what is closed costs nothing."""
    skip = candidate.skip

    def costs(number: int) -> tuple[float, ...]:
        return (number, 0) if skip.base else (0, number)

    known = {"params": costs(candidate.params), "macs": costs(candidate.macs)}
    return Slot(f"skip {skip.source}->{skip.target}", (), (0, 1), {}, known, skip)


def _fixed(cost: GraphCost, slots: Sequence[Slot]) -> dict[str, float]:
    """The cost of everything outside the slots."""
    return {
        "params": cost.params - sum(slot.costs["params"][0] for slot in slots),
        "macs": cost.macs - sum(slot.costs["macs"][0] for slot in slots),
    }
