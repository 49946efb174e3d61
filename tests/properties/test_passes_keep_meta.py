"""No pass loses the meta of a node: what a graph knew before, it knows behind each of them."""

from __future__ import annotations

import copy

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_random_networks import OPERATORS, SIDE, networks
from test_random_skips import SIDE as CHAIN_SIDE
from test_random_skips import chains
from torch import Tensor, nn
from torch.fx import GraphModule, Node

import narfx
from narfx.compiler.traced import Traced
from narfx.errors import NarfxError
from narfx.graph.tracing import trace_graph
from narfx.operators.dispatch import Shortcut
from narfx.passes import InsertDispatch, InsertSkips, LiftDropout, LiftFunctional, Lower, Pass, RestoreFunctional
from narfx.passes.lift_functional import read_functional


def calls(graph_module: GraphModule) -> list[Node]:
    return [node for node in graph_module.graph.nodes if node.op not in ("placeholder", "output")]


def check(run: Pass, given: GraphModule) -> GraphModule:
    """Run a pass on a copy: each node has the mark of a node of before, however it came to be, and that one's line."""
    graph_module = copy.deepcopy(given)
    for node in graph_module.graph.nodes:
        node.meta.setdefault("mark", node.stack_trace)  # none inside torch's own containers
    result: GraphModule = run(graph_module).graph_module
    for node in calls(result):
        lost = f"{type(run).__name__} lost the meta of {node.format_node()}"
        assert "mark" in node.meta and node.meta["mark"] == node.stack_trace, lost
    return result


def check_passes(network: nn.Module, traced: Traced, data: st.DataObject) -> None:
    ours, other = (trace_graph(network, training=training).graph_module for training in (False, True))
    check(LiftDropout(other.graph), ours)
    inserted = traced.graph_module
    targets = [conv.target for conv in read_functional(inserted).values() if not isinstance(conv, str)]
    check(RestoreFunctional(), check(LiftFunctional(targets), inserted))
    if traced.skips is not None:
        inserted = check(InsertSkips(traced.skips), inserted)
    slots = [slot for slot in traced.space.slots if slot.skip is None]
    inserted = check(InsertDispatch(slots), inserted)
    check(Lower(traced.space, traced.space.base), inserted)
    vector = tuple(data.draw(st.sampled_from(slot.legal)) for slot in traced.space.slots)
    check(Lower(traced.space, vector), inserted)


def trace(network: nn.Module, side: int, *, skips: bool) -> Traced | None:
    try:
        return narfx.trace(network, input=(3, side, side), operators=OPERATORS, search_skips=skips)
    except NarfxError as error:
        assert error.kind in ("nothing_to_refine", "no_main_path", "no_skips")
        return None


@settings(max_examples=15)
@given(network=networks(), data=st.data())
def test_no_pass_loses_meta_on_random_networks(network: nn.Module, data: st.DataObject) -> None:
    traced = trace(network, SIDE, skips=False)
    if traced is not None:
        check_passes(network, traced, data)


@settings(max_examples=15)
@given(network=chains(), data=st.data())
def test_no_pass_loses_meta_on_random_chains(network: nn.Module, data: st.DataObject) -> None:
    traced = trace(network, CHAIN_SIDE, skips=True)
    if traced is not None:
        check_passes(network, traced, data)


class Projected(nn.Module):
    """A block whose shortcut is a projection and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.two, self.last = (nn.Conv2d(width, 8, 3, padding=1) for width in (4, 8, 8))
        self.side, self.norm = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        side = self.norm(self.side(x))
        x = self.two(torch.relu(self.one(x))) + side
        last: Tensor = self.last(x)
        return last


def test_a_shortcut_has_the_line_of_what_it_stands_for() -> None:
    traced = trace(Projected().eval(), CHAIN_SIDE, skips=True)
    assert traced is not None and traced.skips is not None
    given = traced.graph_module
    assert all(node.stack_trace for node in calls(given))
    gated = check(InsertSkips(traced.skips), given)
    modules = dict(gated.named_modules())
    (shortcut,) = (node for node in calls(gated) if isinstance(modules.get(str(node.target)), Shortcut))
    (norm,) = (node for node in calls(given) if node.target == "norm")
    assert shortcut.stack_trace == norm.stack_trace
