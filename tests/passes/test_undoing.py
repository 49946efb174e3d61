"""A rewrite and its inverse on one graph, or on a copy of it, give the graph of before: code, names, keys, outputs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sample_networks import Chain, images, settled
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from narfx.graph.tracing import trace_graph
from narfx.passes import LiftDropout, LiftFunctional, RestoreDropout, RestoreFunctional
from narfx.passes.lift_functional import FunctionalConv, read_functional

SHAPE = (3, 16, 16)


class Dropping(Chain):
    """Every way to write a dropout, two of them twice, and a module that has the name which a lifted one would take."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.dropout(self.dropout(x), 0.25, self.training), training=self.training)
        x = F.dropout(F.alpha_dropout(x, p=0.3, training=self.training), 0.2, self.training, False)
        return F.dropout(input=super().forward(x), p=0.5, training=self.training)


class Functional(nn.Module):
    """Two calls with one parameter, one with bias, and a parameter that something else reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 8, 3, 3)), nn.Parameter(torch.randn(8))
        self.twice = nn.Parameter(torch.randn(8, 8, 3, 3))
        self.scale = nn.Parameter(torch.randn(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.conv2d(self.stem(x), self.weight, bias=self.bias, padding=(1,))
        for _ in range(2):
            x = F.conv2d(x, self.twice, padding=1).relu()
        return x * self.scale


def lifted_dropouts(training: bool) -> tuple[nn.Module, GraphModule, GraphModule]:
    """The model, its trace, and that trace with its dropouts lifted."""
    model = settled(Dropping())
    graphs = {mode: trace_graph(model, training=mode).graph_module for mode in (False, True)}
    lifted = copy.deepcopy(graphs[training])
    assert LiftDropout(graphs[not training].graph)(lifted).modified
    return model, graphs[training], lifted


def lifted_convolutions() -> tuple[nn.Module, GraphModule, GraphModule]:
    model = settled(Functional())
    before = trace_graph(model).graph_module
    lifted = copy.deepcopy(before)
    targets = {conv.target for conv in read_functional(lifted).values() if isinstance(conv, FunctionalConv)}
    assert len(targets) == 2
    assert LiftFunctional(targets)(lifted).modified
    return model, before, lifted


def repickled(graph_module: GraphModule) -> GraphModule:
    copied: GraphModule = pickle.loads(pickle.dumps(graph_module))
    return copied


def facts(graph_module: GraphModule) -> dict[str, Any]:
    """All that must be as before; arguments are shown by the names of their nodes."""
    return {
        "code": graph_module.code,
        "nodes": [(n.op, n.name, str(n.target), str(n.args), str(n.kwargs)) for n in graph_module.graph.nodes],
        "meta": [(sorted(n.meta), n.stack_trace) for n in graph_module.graph.nodes],
        "keys": list(graph_module.state_dict()),
        "modules": [name for name, _ in graph_module.named_modules()],
    }


def outputs(graph_module: GraphModule, training: bool) -> Tensor:
    torch.manual_seed(3)
    result: Tensor = copy.deepcopy(graph_module).train(training)(images(2, *SHAPE))
    return result


@pytest.mark.parametrize("copied", [None, copy.deepcopy, repickled])
@pytest.mark.parametrize(
    ("lift", "restore"),
    [
        (lambda: lifted_dropouts(False), RestoreDropout()),
        (lambda: lifted_dropouts(True), RestoreDropout()),
        (lifted_convolutions, RestoreFunctional()),
    ],
    ids=["dropouts in eval", "dropouts in training", "convolutions"],
)
def test_a_lifting_is_undone(
    lift: Callable[[], tuple[nn.Module, GraphModule, GraphModule]],
    restore: Any,
    copied: Callable[[GraphModule], GraphModule] | None,
) -> None:
    _, before, lifted = lift()
    assert lifted.code != before.code
    assert [n.name for n in lifted.graph.nodes if n.op != "get_attr"] == [
        n.name for n in before.graph.nodes if n.op != "get_attr"
    ]
    graph_module = lifted if copied is None else copied(lifted)
    assert restore(graph_module).modified
    if copied is repickled:  # torch names and numbers the nodes anew, and keeps of their meta only the lines
        assert graph_module.state_dict().keys() == before.state_dict().keys()
    else:
        assert facts(graph_module) == facts(before)
    for training in (False, True):
        assert torch.equal(outputs(graph_module, training), outputs(before, training))
    assert not restore(graph_module).modified


def test_lifting_again_after_restoring_is_the_first_lifting() -> None:
    model, before, lifted = lifted_dropouts(False)
    first = facts(lifted)
    RestoreDropout()(lifted)
    LiftDropout(trace_graph(model, training=True).graph_module.graph)(lifted)
    assert facts(lifted) == first
    assert first != facts(before)


def test_a_dropout_that_was_changed_meanwhile_stays_a_module() -> None:
    _, before, lifted = lifted_dropouts(False)
    changed = [name for name, module in lifted.named_modules() if isinstance(module, nn.Dropout) and module.p == 0.25]
    lifted.get_submodule(changed[0]).p = 0.75  # type: ignore[assignment]
    assert RestoreDropout()(lifted).modified
    kept = [n.target for n in lifted.graph.nodes if n.op == "call_module" and "dropout" in str(n.target)]
    assert kept == ["dropout", changed[0]]
    assert torch.equal(outputs(lifted, False), outputs(before, False))


def test_a_name_that_was_taken_meanwhile_stays_with_who_took_it() -> None:
    _, before, lifted = lifted_convolutions()
    read = next(n for n in before.graph.nodes if n.op == "get_attr" and n.target == "weight")
    stem = next(n for n in lifted.graph.nodes if n.target == "stem")
    stem.name = read.name
    RestoreFunctional()(lifted)
    names = [n.name for n in lifted.graph.nodes]
    assert len(names) == len(set(names))
    assert stem.name == read.name
    assert torch.equal(outputs(lifted, False), outputs(before, False))


def test_a_probability_that_is_computed_makes_no_module() -> None:
    class Computed(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(super().forward(x), x.mean().item(), training=self.training)

    graphs = {mode: trace_graph(Computed(), training=mode).graph_module for mode in (False, True)}
    assert not LiftDropout(graphs[True].graph)(graphs[False]).modified
