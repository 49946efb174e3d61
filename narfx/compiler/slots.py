"""From sites to slots, with their legal operators and costs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from narfx.errors import UsageError
from narfx.graph.cost import GraphCost
from narfx.operators import operator_cost, refusal
from narfx.operators.declared import try_candidate
from narfx.passes.blocks import find_blocks
from narfx.passes.declared import changes_in_place
from narfx.passes.lift_functional import FunctionalConv, read_functional
from narfx.passes.skips import SkipCandidate
from narfx.space.records import DeclaredSite, Site, Slot

__all__ = [
    "by_first_call",
    "declared_slot",
    "fixed_cost",
    "group_declared",
    "group_sites",
    "operator_slot",
    "skip_slot",
    "unused_operators",
]


def group_sites(
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


def operator_slot(name: str, sites: Sequence[Site], operators: Sequence[str], max_candidate_params: float) -> Slot:
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
    known = {metric: tuple(values) for metric, values in costs.items()}
    return Slot(name, tuple(sites), legal, refused, known, choices=tuple(operators))


def group_declared(sites: Sequence[DeclaredSite]) -> list[tuple[str, list[DeclaredSite]]]:
    """Sites that declare the same slot, or else the calls of one module, each group with the name of its slot.

    Raises:
        UsageError: Sites of one slot declare other candidates, or the calls of one module are in two slots.
    """
    groups: dict[tuple[str, str], list[DeclaredSite]] = {}
    for site in sites:
        groups.setdefault(("slot", site.slot) if site.slot is not None else ("module", site.target), []).append(site)
    for (_, name), members in groups.items():
        other = next((site for site in members if site.candidates != members[0].candidates), None)
        if other is not None:
            raise UsageError(
                f"the sites of slot {name} declare other candidates: {members[0].name} has "
                f"{', '.join(members[0].candidates)}, and {other.name} has {', '.join(other.candidates)}: give them "
                "the same names in the same order, or another narfx_slot",
                where=other.name,
                kind="bad_declaration",
            )
    return [(name, members) for (_, name), members in groups.items()]


def declared_slot(name: str, sites: Sequence[DeclaredSite], graph_module: fx.GraphModule) -> Slot:
    """A slot that offers what its sites declare; each candidate is built and run once at each site.

    Raises:
        UsageError: A candidate fails or does not fit; the message names it and its site.
    """
    changed = changes_in_place(graph_module, sites)
    costs: dict[str, list[int]] = {"params": [], "macs": []}
    for index, candidate in enumerate(sites[0].candidates):
        total = {"params": 0.0, "macs": 0.0}
        for site in sites:
            own = {"params": float(site.own_params or 0), "macs": float(site.own_macs or 0)}
            if index:
                own = try_candidate(graph_module.get_submodule(site.target), site, candidate, changed=changed)
            total["params"] += own["params"] if site.occurrence == 0 else 0
            total["macs"] += own["macs"]
        for metric, value in total.items():
            costs[metric].append(int(value))
    known = {metric: tuple(values) for metric, values in costs.items()}
    choices = sites[0].candidates
    return Slot(name, tuple(sites), tuple(range(len(choices))), {}, known, choices=choices)


def by_first_call(slots: Sequence[Slot], graph_module: fx.GraphModule) -> list[Slot]:
    """The slots in the order in which the network first calls a site of each."""
    functional = read_functional(graph_module)
    first: dict[str, int] = {}
    for index, node in enumerate(graph_module.graph.nodes):
        call = functional.get(node)
        first.setdefault(call.target if isinstance(call, FunctionalConv) else str(node.target), index)
    return sorted(slots, key=lambda slot: min(first[site.target] for site in slot.sites))


def skip_slot(candidate: SkipCandidate) -> Slot:
    """Two choices: as the base has it, and the other way round; what is closed costs nothing."""
    skip = candidate.skip

    def costs(number: int) -> tuple[float, ...]:
        return (number, 0) if skip.base else (0, number)

    known = {"params": costs(candidate.params), "macs": costs(candidate.macs)}
    return Slot(f"skip {skip.source}->{skip.target}", (), (0, 1), {}, known, skip, choices=skip.choices)


def fixed_cost(cost: GraphCost, slots: Sequence[Slot]) -> dict[str, float]:
    """The cost of everything outside the slots."""
    return {
        "params": cost.params - sum(slot.costs["params"][0] for slot in slots),
        "macs": cost.macs - sum(slot.costs["macs"][0] for slot in slots),
    }


def unused_operators(operators: Sequence[str], slots: Sequence[Slot]) -> list[str]:
    """A sentence for each operator of the list that no slot offers."""
    offered = {k for slot in slots for k in slot.legal}
    left = [k for k in range(len(operators)) if k not in offered] if slots else []
    return [f"{operators[k]} may stand nowhere, as at {slots[0].name}: {slots[0].refused[k]}" for k in left]
